"""The training loop that grounding and fine-tuning share.

Everything random is a pure function of (seed, step), so a run that continues from its saved state ends
in the same bits as one that was never interrupted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pld_core.errors import CheckpointError, ConfigError, NonFiniteError
from pld_core.vla.checkpoint import read_checkpoint, restore, write_checkpoint
from pld_core.vla.layers import Params

MICRO_BATCH = 16
"""Rows of images per gradient call. Their activations stay in a core's cache, and the memory comes from the heap
instead of fresh pages: twice as fast per row as 64 at once. Convolutions must not be in a compiled loop."""

Batch = dict[str, Any]
Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class TrainConfig:
    """AdamW with linear warm-up and cosine decay to zero; gradients clipped by their global norm."""

    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.05  # share of the steps
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema: float = 0.0  # decay of the averaged weights that are returned; 0 returns the last ones
    seed: int = 0
    save_every: int = 500  # steps between saved states, if a state path is given

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch_size, self.save_every)
        if min(counts) < 1 or not self.learning_rate > 0 or not 0 <= self.ema < 1 or not 0 <= self.warmup < 1:
            raise ConfigError(
                "Training needs steps, batch_size, save_every >= 1, learning_rate > 0, "
                f"0 <= ema < 1 and 0 <= warmup < 1; got {dataclasses.asdict(self)}."
            )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> TrainConfig:
        """From the options of an ``sft``; ConfigError names one that does not exist."""
        valid = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(options) - set(valid)):
            raise ConfigError(f"Unknown training option {', '.join(unknown)}. Valid: {', '.join(valid)}.")
        return cls(**options)

    def optimiser(self) -> optax.GradientTransformation:
        warmup = int(self.warmup * self.steps)
        schedule = optax.warmup_cosine_decay_schedule(
            self.learning_rate / max(warmup, 1), self.learning_rate, warmup, max(self.steps, warmup + 1)
        )
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm), optax.adamw(schedule, weight_decay=self.weight_decay)
        )


def fit(
    loss: Callable[[Params, Any, Batch, jax.Array], jax.Array],
    trainable: Params,
    constants: Any,
    batch_at: Callable[[int], Batch],
    config: TrainConfig,
    *,
    steps_per_call: int | None = None,
    fingerprint: str = "",
    state_path: Path | None = None,
    progress: Progress | None = None,
) -> Params:
    """Minimise ``loss(trainable, constants, batch, key)`` and return the trained parameters.

    loss: hashable (a frozen dataclass), because it is a static argument of the compiled step.
    batch_at: numpy arrays for a step number. steps_per_call: for a small network without convolutions, how
    many steps one compiled call makes; None makes each step from gradients of MICRO_BATCH rows at a time.
    fingerprint: what else the saved state depends on.
    """
    state = {"params": trainable, "optimiser": config.optimiser().init(trainable), "average": trainable}
    state, step = _resume(state, config, fingerprint, state_path)
    while step < config.steps:
        if steps_per_call is None:
            state, losses = _accumulated_step(loss, config, state, constants, batch_at(step), step)
        else:
            last = min(step - step % steps_per_call + steps_per_call, config.steps)
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *map(batch_at, range(step, last)))
            state, losses = _scanned_steps(loss, config, state, constants, stacked, np.int32(step))
        losses = np.asarray(losses)
        if not np.isfinite(losses).all():
            first = step + int(np.argmin(np.isfinite(losses)))
            raise NonFiniteError(f"The loss became {losses[first - step]} at step {first}; lower the learning rate.")
        done = step + len(losses)
        if progress is not None:
            progress(done, float(losses.mean()))
        if state_path is not None and (done == config.steps or done // config.save_every > step // config.save_every):
            header = {"kind": "training", "fingerprint": _fingerprint(config, fingerprint), "step": done}
            write_checkpoint(Path(state_path), header, jax.device_get(state))
        step = done
    return state["average" if config.ema else "params"]


def _key(config: TrainConfig, step: Any) -> jax.Array:
    return jax.random.fold_in(jax.random.key(config.seed), step)


@partial(jax.jit, static_argnames=("loss", "config"), donate_argnames=("state",))
def _scanned_steps(loss, config: TrainConfig, state: Params, constants: Any, batches: Batch, first: jax.Array):
    """Several optimiser steps in one call; ``batches`` leaves are ``[steps, B, ...]``."""

    def step(state: Params, inputs: tuple[jax.Array, Batch]) -> tuple[Params, jax.Array]:
        number, batch = inputs
        value, gradient = jax.value_and_grad(loss)(state["params"], constants, batch, _key(config, number))
        return _updated(config, state, gradient, number), value

    count = jax.tree.leaves(batches)[0].shape[0]
    return jax.lax.scan(step, state, (first + jnp.arange(count), batches))


def _accumulated_step(loss, config: TrainConfig, state: Params, constants: Any, batch: Batch, step: int):
    """One optimiser step; the gradient of the mean loss is summed over pieces of at most MICRO_BATCH rows."""
    rows = len(jax.tree.leaves(batch)[0])
    total = (np.float32(0.0), jax.tree.map(np.zeros_like, state["params"]))
    key = _key(config, step)
    for start in range(0, rows, MICRO_BATCH):
        piece = jax.tree.map(lambda column, start=start: column[start : start + MICRO_BATCH], batch)
        share = np.float32(min(MICRO_BATCH, rows - start) / rows)
        total = _add_gradient(loss, total, state["params"], constants, piece, jax.random.fold_in(key, start), share)
    value, gradient = total
    return _apply(config, state, gradient, np.int32(step)), [value]


@partial(jax.jit, static_argnames=("loss",))
def _add_gradient(loss, total: Params, params: Params, constants: Any, batch: Batch, key: jax.Array, share: Any):
    """``total + share * (loss, gradient)`` of one piece."""
    return jax.tree.map(lambda t, x: t + share * x, total, jax.value_and_grad(loss)(params, constants, batch, key))


def _updated(config: TrainConfig, state: Params, gradient: Params, number: jax.Array) -> Params:
    """The state after one optimiser step."""
    updates, moments = config.optimiser().update(gradient, state["optimiser"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    average = state["average"]
    if config.ema:
        decay = jnp.minimum(config.ema, (1.0 + number) / (10.0 + number))  # short memory at first
        average = jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, average, params)
    return {"params": params, "optimiser": moments, "average": average}


_apply = jax.jit(_updated, static_argnames=("config",), donate_argnames=("state",))


def _fingerprint(config: TrainConfig, extra: str) -> str:
    fields = {k: v for k, v in dataclasses.asdict(config).items() if k != "save_every"}
    return f"{fields} {extra}"


def _resume(state: Params, config: TrainConfig, extra: str, path: Path | None) -> tuple[Params, int]:
    """The saved state and its step, or the fresh one and 0. Copies, since the step donates its input."""
    fresh = jax.tree.map(jnp.array, state)
    if path is None or not Path(path).exists():
        return fresh, 0
    header, saved = read_checkpoint(Path(path))
    if header.get("kind") != "training" or header.get("fingerprint") != _fingerprint(config, extra):
        raise CheckpointError(
            f"{path} belongs to another training run (other settings, data or base weights); remove it to start over."
        )
    return jax.tree.map(jnp.asarray, restore(fresh, saved, Path(path))), int(header["step"])
