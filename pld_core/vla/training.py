"""The training loop that grounding and fine-tuning share.

Everything random is a pure function of (seed, step), so a run that continues from its saved state ends
in the same bits as one that was never interrupted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
    steps_per_call: int = 1,
    fingerprint: str = "",
    state_path: Path | None = None,
    progress: Progress | None = None,
) -> Params:
    """Minimise ``loss(trainable, constants, batch, key)`` and return the trained parameters.

    loss: hashable (a frozen dataclass), because it is a static argument of the compiled step.
    batch_at: numpy arrays for a step number. steps_per_call: steps inside one compiled call; more than one
    saves time for small networks only, because XLA's convolutions are a hundred times slower inside a loop
    on a CPU. fingerprint: what else the saved state depends on.
    """
    state = {"params": trainable, "optimiser": config.optimiser().init(trainable), "average": trainable}
    state, step = _resume(state, config, fingerprint, state_path)
    while step < config.steps:
        count = min(steps_per_call - step % steps_per_call, config.steps - step)
        batches = [batch_at(s) for s in range(step, step + count)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
        state, losses = _train(loss, config, state, constants, stacked, np.int32(step))
        losses = np.asarray(losses)
        if not np.isfinite(losses).all():
            first = step + int(np.argmin(np.isfinite(losses)))
            raise NonFiniteError(f"The loss became {losses[first - step]} at step {first}; lower the learning rate.")
        done = step + count
        if progress is not None:
            progress(done, float(losses.mean()))
        if state_path is not None and (done == config.steps or done // config.save_every > step // config.save_every):
            header = {"kind": "training", "fingerprint": _fingerprint(config, fingerprint), "step": done}
            write_checkpoint(Path(state_path), header, jax.device_get(state))
        step = done
    return state["average" if config.ema else "params"]


@partial(jax.jit, static_argnames=("loss", "config"), donate_argnames=("state",))
def _train(loss, config: TrainConfig, state: Params, constants: Any, batches: Batch, first: jax.Array):
    """Several optimiser steps in one call; ``batches`` leaves are ``[steps, B, ...]``."""
    optimiser = config.optimiser()

    def step(state: Params, inputs: tuple[jax.Array, Batch]) -> tuple[Params, jax.Array]:
        number, batch = inputs
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        value, gradient = jax.value_and_grad(loss)(state["params"], constants, batch, key)
        updates, moments = optimiser.update(gradient, state["optimiser"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        average = state["average"]
        if config.ema:
            decay = jnp.minimum(config.ema, (1.0 + number) / (10.0 + number))  # short memory at first
            average = jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, average, params)
        return {"params": params, "optimiser": moments, "average": average}, value

    count = jax.tree.leaves(batches)[0].shape[0]
    if count == 1:
        state, value = step(state, (first, jax.tree.map(lambda leaf: leaf[0], batches)))
        return state, value[None]
    return jax.lax.scan(step, state, (first + jnp.arange(count), batches))


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
