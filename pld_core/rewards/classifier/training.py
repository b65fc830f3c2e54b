"""Training: balanced batches, binary cross-entropy, and rounds of hard-negative mining.

The frames that matter are the failures that look most like success: those near the end of an episode,
and those that the classifier itself, after a first round, holds for successes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pld_core.errors import ConfigError
from pld_core.rewards.classifier.augment import Augmentation
from pld_core.rewards.classifier.dataset import Frames
from pld_core.rewards.classifier.network import NetworkShape, Stats, judge_many, logits_of, see
from pld_core.vla.layers import Params
from pld_core.vla.training import Batch, TrainConfig, fit

Progress = Callable[[int, float], None]
NEAR = 10  # ticks before the first success, or before the end of a failed episode


@dataclass(frozen=True)
class ClassifierTraining:
    """steps: gradient steps of the first round; each mining round has half as many.

    mining_rounds: how often the highest-scoring negatives are looked for; hard_share: how many of the negatives
    they are. A batch holds positives, negatives at random, negatives near the end and mined ones in the
    shares of ``BATCH``.
    """

    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 1e-3
    mining_rounds: int = 2
    hard_share: float = 0.1
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 4 or self.mining_rounds < 0 or not 0 < self.hard_share <= 1 or self.steps < 2:
            raise ConfigError(
                "The classifier needs steps >= 2, batch_size >= 4, mining_rounds >= 0 and hard_share in (0, 1]; got "
                f"{self.steps}, {self.batch_size}, {self.mining_rounds}, {self.hard_share}."
            )

    @property
    def total_steps(self) -> int:
        return self.steps + self.mining_rounds * (self.steps // 2)


BATCH = (0.4, 0.2, 0.2, 0.2)  # positives; negatives: any, near the end, mined (before mining: near the end)


@dataclass(frozen=True)
class ClassifierLoss:
    """Binary cross-entropy of augmented frames."""

    shape: NetworkShape
    augmentation: Augmentation

    def __call__(self, params: Params, stats: Stats, batch: Batch, key: jax.Array) -> jax.Array:
        features = see(params["cameras"], stats, self.shape, self.augmentation(key, batch["images"]))
        logits = logits_of(params, stats, features, batch["proprio"])
        return jnp.mean(jax.nn.softplus(logits) - batch["success"] * logits)


def train_classifier(
    params: Params,
    stats: dict[str, np.ndarray],
    shape: NetworkShape,
    frames: Frames,
    config: ClassifierTraining,
    state_folder: Path | None = None,
    progress: Progress = lambda step, loss: None,
    origin: str = "",
) -> tuple[Params, dict[str, np.ndarray]]:
    """Trained eyes and head, and the statistics with those of the training frames; every picture by itself.

    state_folder: where each round keeps its state, so that an interrupted training goes on; origin: where the
    given weights come from. Raises CheckpointError where the folder holds the state of another training.
    """
    stats = {**stats, **proprio_stats(frames, shape.proprio_dim)}
    shape = dataclasses.replace(shape, memory_dim=0, memories=1)
    pools = _Pools(frames)
    loss = ClassifierLoss(shape, config.augmentation)
    done = 0
    for number in range(config.mining_rounds + 1):
        steps = config.steps if number == 0 else config.steps // 2
        schedule = TrainConfig(
            steps=steps, batch_size=config.batch_size, learning_rate=config.learning_rate / (1 + number), ema=0.995,
            seed=config.seed * 100 + number,
        )  # fmt: skip
        trainable = {name: params[name] for name in ("cameras", "head")}
        params = params | fit(
            loss, trainable, stats, _Batches(frames, shape, pools, config, number), schedule,
            fingerprint=f"{fingerprint(shape, frames, config, origin)}, round {number}",
            state_path=state_folder / f"round{number}.state" if state_folder else None,
            progress=lambda step, value, done=done: progress(done + step, value),
        )  # fmt: skip
        done += steps
        if number < config.mining_rounds:
            logits, _ = judge_many(shape, params, stats, frames.images, frames.proprio, frames.episode)
            pools.mine(logits, config.hard_share)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params), stats


def fingerprint(shape: NetworkShape, frames: Frames, config: ClassifierTraining, origin: str) -> str:
    """All that a saved state depends on and the schedule of a round does not say."""
    data = hashlib.sha256(repr((frames.names, frames.instruction)).encode())
    data.update(frames.episode.astype(np.int64).tobytes() + frames.success.astype(bool).tobytes())
    settings = f"{config.augmentation}, hard share {config.hard_share}"
    return f"classifier {shape} from {origin}, {settings}, frames {data.hexdigest()}"


def proprio_stats(frames: Frames, dim: int) -> dict[str, np.ndarray]:
    """Mean and spread per entry, ``[dim]``."""
    mean, spread = mean_and_spread(frames.proprio[:, :dim])
    return {"proprio_mean": mean, "proprio_std": spread}


def mean_and_spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per column of ``[N, D]``, float32; a column that never changes is left as it is: its spread counts as 1."""
    spread = values.std(axis=0, dtype=np.float32)
    return values.mean(axis=0, dtype=np.float32), np.where(spread > 1e-6, spread, 1.0).astype(np.float32)


class _Pools:
    """Row numbers to draw from: positives, negatives, negatives near the end, mined negatives."""

    def __init__(self, frames: Frames) -> None:
        self.positive = np.flatnonzero(frames.success)
        self.negative = np.flatnonzero(~frames.success)
        if not len(self.positive) or not len(self.negative):
            raise ConfigError("The training frames hold only one outcome; record successes and failures.")
        near = np.zeros(len(frames), bool)
        for number in range(len(frames.names)):
            rows = frames.rows(number)
            found = np.flatnonzero(frames.success[rows])
            end = rows.start + int(found[0]) if len(found) else rows.stop
            near[max(rows.start, end - NEAR) : end] = True
            if len(found):
                near[rows.start + int(found[0]) : rows.stop] = True  # failures after a success that did not last
        self.near = np.flatnonzero(near & ~frames.success)
        self.hard = self.near

    def mine(self, logits: np.ndarray, share: float) -> None:
        """The highest-scoring negatives become the hard ones."""
        count = max(1, int(share * len(self.negative)))
        order = np.argsort(-logits[self.negative], kind="stable")
        self.hard = self.negative[order[:count]]


@dataclass(frozen=True)
class _Batches:
    """``batch_at`` of one round: a pure function of the step."""

    frames: Frames
    shape: NetworkShape
    pools: _Pools
    config: ClassifierTraining
    number: int

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.config.seed, self.number, step))
        pools = (self.pools.positive, self.pools.negative, self.pools.near, self.pools.hard)
        counts = np.diff(np.round(np.cumsum([0.0, *BATCH]) * self.config.batch_size).astype(int))
        rows = np.concatenate([rng.choice(pool, count) for pool, count in zip(pools, counts, strict=True)])
        rows = rng.permutation(rows)  # gradients are summed over pieces: each piece gets a bit of everything
        return {
            "images": {name: self.frames.images[name][rows] for name, _, _ in self.shape.cameras},
            "proprio": self.frames.proprio[rows, : self.shape.proprio_dim],
            "success": self.frames.success[rows].astype(np.float32),
        }
