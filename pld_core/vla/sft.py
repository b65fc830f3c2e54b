"""Supervised fine-tuning on episodes: windows of executed actions, three modes, one loop.

Modes: ``full`` trains everything; ``head`` only the action head, so that features stay bit-identical and
frames are encoded once; ``lora`` trains low-rank adapters of all kernels and merges them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from pld_core.errors import ConfigError, ContractError
from pld_core.types import Episode
from pld_core.vla.instruction import tokenise
from pld_core.vla.layers import Params
from pld_core.vla.lora import init_adapters, merge_adapters
from pld_core.vla.model import ModelShape, action_loss, encode
from pld_core.vla.pretrain import grounding_error
from pld_core.vla.training import Batch, Progress, TrainConfig, fit

Mode = Literal["full", "head", "lora"]
MODES = ("full", "head", "lora")
HEAD_STEPS_PER_CALL = 20
ENCODE_BATCH = 64  # frames per call when a frozen encoder is applied to a dataset


@dataclass(frozen=True)
class SFTData:
    """Windows of ``N`` ticks: images ``{camera: uint8 [N, h, w, 3]}``, proprio ``[N, P]``, chunks ``[N, H, A]``,
    instruction_ids ``[N]`` into tokens int32 ``[I, n]``, labels ``[N, 5]`` or None."""

    images: dict[str, np.ndarray]
    proprio: np.ndarray
    chunks: np.ndarray
    instruction_ids: np.ndarray
    tokens: np.ndarray
    labels: np.ndarray | None = None


def action_windows(actions: np.ndarray, horizon: int, gripper: int | None = None) -> np.ndarray:
    """Chunks float32 ``[T, H, A]`` of executed actions ``[T, A]``.

    Past the end an arm stands still: deltas are zero and entry ``gripper`` keeps its last command.
    Other action spaces (None) repeat the last action.
    """
    rest = actions[-1].copy()
    if gripper is not None:
        rest[np.arange(len(rest)) != gripper] = 0.0
    padded = np.concatenate([actions, np.tile(rest, (horizon - 1, 1))]).astype(np.float32)
    return np.stack([padded[t : t + horizon] for t in range(len(actions))])


def make_dataset(
    episodes: Sequence[Episode],
    shape: ModelShape,
    labels: Sequence[np.ndarray] | None = None,
    gripper: int | None = None,
    every: int = 1,
) -> SFTData:
    """Windows of all episodes that are not voided. labels: grounding ``[T+1, 5]`` per episode; gripper: see
    ``action_windows``; every: ticks from the start of one window to that of the next."""
    usable = [i for i, episode in enumerate(episodes) if not episode.voided and len(episode) > 0]
    if not usable:
        raise ContractError(f"None of the {len(episodes)} episodes given to sft can be used (voided or empty).")
    for i in usable:
        _check_episode(episodes[i], i, shape)
    if labels is not None and len(labels) != len(episodes):
        raise ContractError(f"{len(labels)} arrays of grounding labels for {len(episodes)} episodes; give one each.")
    chosen = [episodes[i] for i in usable]
    instructions = tuple(dict.fromkeys(episode.instruction for episode in chosen))
    rows = [np.arange(0, len(episode), every) for episode in chosen]
    ids = [np.full(len(r), instructions.index(e.instruction)) for e, r in zip(chosen, rows, strict=True)]
    windows = [action_windows(e.action, shape.config.horizon, gripper)[r] for e, r in zip(chosen, rows, strict=True)]
    return SFTData(
        images={
            n: np.concatenate([e.images[n][r] for e, r in zip(chosen, rows, strict=True)]) for n, _, _ in shape.cameras
        },
        proprio=np.concatenate([e.proprio[r] for e, r in zip(chosen, rows, strict=True)]).astype(np.float32),
        chunks=np.concatenate(windows),
        instruction_ids=np.concatenate(ids),
        tokens=np.stack([tokenise(text, shape.config.text_buckets) for text in instructions]),
        labels=None if labels is None else np.concatenate([labels[i][r] for i, r in zip(usable, rows, strict=True)]),
    )


def _check_episode(episode: Episode, index: int, shape: ModelShape) -> None:
    missing = [name for name, _, _ in shape.cameras if name not in episode.images]
    if missing:
        raise ContractError(f"Episode {index} has no frames of {missing}; record episodes for sft with record_images.")
    if episode.proprio.shape[1:] != (shape.proprio_dim,) or episode.action.shape[1:] != (shape.action_dim,):
        raise ContractError(
            f"Episode {index} has proprio {episode.proprio.shape[1:]} and actions {episode.action.shape[1:]}; the "
            f"policy needs ({shape.proprio_dim},) and ({shape.action_dim},)."
        )
    if not np.isfinite(episode.action).all() or not np.isfinite(episode.proprio).all():
        raise ContractError(f"Episode {index} holds NaN or infinity in its actions or proprioception.")


class BalancedRows:
    """Draws rows of ``instruction_ids [N]``: an instruction uniformly, then one of its ticks uniformly."""

    def __init__(self, instruction_ids: np.ndarray) -> None:
        self._order = np.argsort(instruction_ids, kind="stable")
        self._sizes = np.bincount(instruction_ids)
        self._starts = np.cumsum(self._sizes) - self._sizes

    def draw(self, count: int, seed: int, step: int) -> np.ndarray:
        """Row numbers of a batch; a pure function of its arguments."""
        rng = np.random.default_rng((seed, step))
        chosen = rng.integers(len(self._sizes), size=count)
        within = (rng.random(count) * self._sizes[chosen]).astype(np.int64)
        return self._order[self._starts[chosen] + within]


@dataclass(frozen=True)
class SFTLoss:
    """Action loss, plus grounding loss where a batch has labels. ``trainable`` is what the mode says."""

    shape: ModelShape
    mode: Mode
    grounding_weight: float = 0.0

    def params(self, trainable: Params, base: Params) -> Params:
        if self.mode == "full":
            return trainable
        return {**base, "head": trainable} if self.mode == "head" else merge_adapters(base, trainable)

    def __call__(self, trainable: Params, constants: Any, batch: Batch, key: jax.Array) -> jax.Array:
        params = self.params(trainable, constants["params"])
        stats = constants["stats"]
        if "context" in batch:
            return action_loss(params, stats, self.shape, batch["context"], batch["chunks"], key)
        encoding = encode(params, stats, self.shape, batch["images"], batch["tokens"], batch["proprio"])
        loss = action_loss(params, stats, self.shape, encoding.context, batch["chunks"], key)
        if self.grounding_weight and "labels" in batch:
            loss = loss + self.grounding_weight * grounding_error(encoding.grounding, batch["labels"])
        return loss


def fine_tune(
    params: Params,
    stats: dict[str, np.ndarray],
    shape: ModelShape,
    data: SFTData,
    config: TrainConfig,
    *,
    mode: Mode = "head",
    rank: int = 32,
    grounding_weight: float = 0.0,
    fingerprint: str = "",
    state_path: Any = None,
    progress: Progress | None = None,
) -> Params:
    """Fine-tuned parameters; the given ones stay as they are."""
    if mode not in MODES:
        raise ConfigError(f"sft mode {mode!r} does not exist; valid: {', '.join(MODES)}.")
    loss = SFTLoss(shape, mode, grounding_weight)
    key = jax.random.fold_in(jax.random.key(config.seed), 2**31 - 1)
    trainable = params if mode == "full" else params["head"] if mode == "head" else init_adapters(params, rank, key)
    trained = fit(
        loss,
        trainable,
        {"params": params, "stats": stats},
        _batches(params, stats, shape, data, config, mode),
        config,
        steps_per_call=HEAD_STEPS_PER_CALL if mode == "head" else None,
        fingerprint=f"{fingerprint} {loss} rank {rank}",
        state_path=state_path,
        progress=progress,
    )
    return loss.params(trained, params)


def _batches(
    params: Params, stats: Any, shape: ModelShape, data: SFTData, config: TrainConfig, mode: Mode
) -> Callable[[int], Batch]:
    """A function from the step number to its batch."""
    columns: Batch = {"chunks": data.chunks}
    if mode == "head":
        columns["context"] = encode_dataset(params, stats, shape, data)
    else:
        columns |= {"images": data.images, "proprio": data.proprio}
        columns |= {} if data.labels is None else {"labels": data.labels.astype(np.float32)}
    sampler = BalancedRows(data.instruction_ids)

    def batch_at(step: int) -> Batch:
        rows = sampler.draw(config.batch_size, config.seed, step)
        batch = jax.tree.map(lambda column: column[rows], columns)
        return batch if mode == "head" else {**batch, "tokens": data.tokens[data.instruction_ids[rows]]}

    return batch_at


def encode_dataset(params: Params, stats: Any, shape: ModelShape, data: SFTData) -> np.ndarray:
    """The frozen encoder's context of every tick, ``[N, context_dim]``."""
    parts = []
    for start in range(0, len(data.chunks), ENCODE_BATCH):
        rows = np.minimum(np.arange(start, start + ENCODE_BATCH), len(data.chunks) - 1)  # the last batch is padded
        images = {name: frames[rows] for name, frames in data.images.items()}
        tokens = data.tokens[data.instruction_ids[rows]]
        parts.append(np.asarray(_context(shape, params, stats, images, tokens, data.proprio[rows])))
    return np.concatenate(parts)[: len(data.chunks)]


@partial(jax.jit, static_argnames=("shape",))
def _context(shape: ModelShape, params: Params, stats: Any, images: Any, tokens: jax.Array, proprio: jax.Array):
    return encode(params, stats, shape, images, tokens, proprio).context


def fit_proprio_stats(stats: dict[str, np.ndarray], proprio: np.ndarray) -> dict[str, np.ndarray]:
    """``stats`` with the mean and standard deviation of ``proprio [N, P]``; constants keep a scale of one."""
    deviation = proprio.std(axis=0)
    scale = np.where(deviation > 1e-4, deviation, 1.0)
    return {**stats, "proprio_mean": _float(proprio.mean(axis=0)), "proprio_std": _float(scale)}


def fit_action_stats(stats: dict[str, np.ndarray], actions: np.ndarray) -> dict[str, np.ndarray]:
    """``stats`` with the mean and standard deviation of actions ``[N, A]``; the range of the bins stays."""
    deviation = np.maximum(actions.std(axis=0), 0.05)  # a constant gripper must not be blown up
    return {**stats, "action_mean": _float(actions.mean(axis=0)), "action_std": _float(deviation)}


def _float(x: Any) -> np.ndarray:
    return np.asarray(x, np.float32)
