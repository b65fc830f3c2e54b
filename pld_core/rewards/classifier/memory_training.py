"""Training of the memory: whole episodes, through eyes that stay as they are.

The eyes look at every frame once and, for the sake of other cameras and light, a second time altered; that is kept, so
that a step costs no picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pld_core.rewards.classifier.augment import Augmentation
from pld_core.rewards.classifier.dataset import Frames
from pld_core.rewards.classifier.memory import unroll
from pld_core.rewards.classifier.network import BLOCK, NetworkShape, Stats, blocks, look, see_twice, seen, take_in
from pld_core.rewards.classifier.training import mean_and_spread
from pld_core.vla.layers import Params
from pld_core.vla.training import Batch, TrainConfig, fit

Progress = Callable[[int, float], None]
NEAR = 10  # ticks before the first success, or before the end of a failed episode ...
NEAR_WEIGHT = 3.0  # ... and all later ones count so much more than the others
POSITIVE_SHARE = 0.7  # weight of all successes, relative to that of all other frames
DROPPED = 0.05  # of the frames, at random: on a robot, some come too late to be judged
FEATURE_NOISE, PROPRIO_NOISE = 0.1, 0.02  # in units of the spread, or episodes are learnt by heart
WEIGHT_DECAY = 1e-3


@dataclass(frozen=True)
class MemoryTraining:
    """Settings of the second training; augmentation: the same change for all frames of an episode."""

    steps: int = 3000
    batch_size: int = 32  # episodes
    learning_rate: float = 2e-3
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0


@dataclass(frozen=True)
class MemoryLoss:
    """Weighted binary cross-entropy of every tick of some episodes."""

    def __call__(self, params: Params, stats: Stats, batch: Batch, key: jax.Array) -> jax.Array:
        one, other = jax.random.split(key)
        features, proprio = jnp.asarray(batch["features"], jnp.float32), batch["proprio"]
        features += FEATURE_NOISE * stats["feature_std"] * jax.random.normal(one, features.shape)
        proprio += PROPRIO_NOISE * stats["proprio_std"] * jax.random.normal(other, proprio.shape)
        logits = jax.vmap(unroll)(params, take_in(params, stats, features, proprio))
        loss = jax.nn.softplus(logits) - batch["success"] * logits
        return jnp.mean(jnp.sum(batch["weight"] * loss, axis=-1))


def train_memory(
    params: Params,
    stats: dict[str, np.ndarray],
    shape: NetworkShape,
    frames: Frames,
    config: MemoryTraining,
    state_path: Path | None = None,
    progress: Progress = lambda step, loss: None,
    fingerprint: str = "",
) -> tuple[Params, dict[str, np.ndarray]]:
    """The weights with a trained "memory", and the statistics with those of the features.

    state_path: where an interrupted training goes on. Raises CheckpointError for the state of another one.
    """
    views = [look(shape, params, stats, frames.images).astype(np.float16)]
    mean, spread = mean_and_spread(views[0])
    stats = {**stats, "feature_mean": mean, "feature_std": spread}
    views.append(_altered(params, stats, shape, frames, config))
    schedule = TrainConfig(
        steps=config.steps, batch_size=config.batch_size, learning_rate=config.learning_rate,
        weight_decay=WEIGHT_DECAY, seed=config.seed,
    )  # fmt: skip
    memory = fit(
        MemoryLoss(), params["memory"], stats, _Episodes(frames, shape, views, config), schedule,
        fingerprint=f"{fingerprint}, memory {config}", state_path=state_path, progress=progress,
    )  # fmt: skip
    return {**params, "memory": jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), memory)}, stats


def _altered(params: Params, stats: Stats, shape: NetworkShape, frames: Frames, config: MemoryTraining) -> np.ndarray:
    """``look`` of frames that are altered alike within an episode, float16 ``[N, 2 F]``."""
    base = jax.random.key(config.seed)

    def alter(number: jax.Array, images: dict[str, jax.Array]) -> dict[str, jax.Array]:
        altered = config.augmentation(
            jax.random.fold_in(base, number), {name: frame[None] for name, frame in images.items()}
        )
        return {name: frame[0] for name, frame in altered.items()}

    @jax.jit
    def look_altered(numbers: jax.Array, images: dict[str, jax.Array]) -> jax.Array:
        return see_twice(params, stats, shape, jax.vmap(alter)(numbers, images))

    found = [
        np.asarray(look_altered(frames.episode[rows], seen(shape, frames.images, rows)), np.float16)
        for rows in blocks(len(frames), BLOCK)
    ]
    return np.concatenate(found)[: len(frames)]


def frame_weights(frames: Frames) -> np.ndarray:
    """float32 ``[N]``, 1 on average; 0 for the frames that a reward never sees, an episode's first."""
    weight = np.ones(len(frames), np.float32)
    for number in range(len(frames.names)):
        rows = frames.rows(number)
        found = np.flatnonzero(frames.success[rows])
        end = rows.start + int(found[0]) if len(found) else rows.stop
        weight[max(rows.start, end - NEAR) : rows.stop] = NEAR_WEIGHT
        weight[rows.start] = 0.0
    positive, negative = weight[frames.success].sum(), weight[~frames.success].sum()
    weight[frames.success] *= POSITIVE_SHARE * negative / max(positive, 1e-6)
    return weight / weight.mean()


class _Episodes:
    """``batch_at``: some episodes, padded to the length of the longest; a pure function of the step."""

    def __init__(self, frames: Frames, shape: NetworkShape, views: list[np.ndarray], config: MemoryTraining) -> None:
        self._views, self._config = views, config
        self._rows = [frames.rows(n) for n in range(len(frames.names))]
        self._longest = max(rows.stop - rows.start for rows in self._rows)
        self._columns = {
            "proprio": frames.proprio[:, : shape.proprio_dim],
            "weight": frame_weights(frames) / self._longest,
            "success": frames.success.astype(np.float32),
        }

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng((self._config.seed, step))
        picked = [self._pick(rng) for _ in range(self._config.batch_size)]
        return {name: np.stack([one[name] for one in picked]) for name in picked[0]}

    def _pick(self, rng: np.random.Generator) -> Batch:
        rows = self._rows[rng.integers(len(self._rows))]
        view = self._views[rng.integers(len(self._views))]
        kept = rows.start + 1 + np.flatnonzero(rng.random(rows.stop - rows.start - 1) >= DROPPED)
        return {name: self._padded(column[kept]) for name, column in {"features": view, **self._columns}.items()}

    def _padded(self, values: np.ndarray) -> np.ndarray:
        return np.concatenate([values, np.zeros((self._longest - len(values), *values.shape[1:]), values.dtype)])
