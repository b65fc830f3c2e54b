"""The half-working base VLA: grounding pre-training, then SFT on a few oracle demonstrations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pld_core import bring
from pld_core.config import TrainConfig
from pld_core.stages.demonstrate import BurstNoise, demonstrate
from pld_core.types import Episode
from pld_core.vla.compact_vla import CompactVLA
from pld_core.vla.frames import GroundingFrames, collect_grounding_frames
from pld_core.vla.model import CompactVLAConfig

Progress = Callable[[str, int, float], None]
_LANES = 8  # environments that take turns while frames are collected


def make_base(config: TrainConfig, path: Path, on_progress: Progress = lambda phase, done, loss: None) -> CompactVLA:
    """Train one CompactVLA for all of ``config.base.tasks`` and save it at ``path``.

    The pre-training labels are where the instruction's target is: what a large VLA brings along from
    pointing and grounding data. The demonstrations are few, so the action head is imprecise.
    """
    base = config.base
    frames, demonstrations = [], []
    for task in base.tasks:
        environments = bring.environment_factory(task)(_LANES)
        frames.append(collect_grounding_frames(environments, base.grounding_frames, config.seed))  # type: ignore[arg-type]
        on_progress(f"frames of {task}", len(frames[-1]), 0.0)
        made = demonstrate(environments[0], base.demonstrations, config.seed, BurstNoise())  # type: ignore[arg-type]
        demonstrations += made
        on_progress(f"demonstrations of {task}", len(made), 0.0)
    policy = CompactVLA.create(environments[0].observation_spec, 7, CompactVLAConfig(head=base.head), seed=config.seed)
    policy = pretrain(policy, GroundingFrames.concatenate(frames), config, on_progress)
    policy = tune(policy, demonstrations, config, on_progress)
    policy.save(path)
    return policy


def pretrain(policy: CompactVLA, frames: GroundingFrames, config: TrainConfig, on_progress: Progress) -> CompactVLA:
    return policy.pretrain_grounding(
        frames,
        steps=config.base.grounding_steps,
        batch_size=config.base.batch_size,
        seed=config.seed,
        progress=lambda step, loss: on_progress("grounding", step, loss),
    )


def tune(policy: CompactVLA, episodes: list[Episode], config: TrainConfig, on_progress: Progress) -> CompactVLA:
    """SFT of the action head alone, so that the features stay those of the pre-training."""
    return policy.sft(
        episodes,
        mode="head",
        steps=config.base.steps,
        batch_size=config.base.batch_size,
        learning_rate=config.base.learning_rate,
        seed=config.seed,
        progress=lambda step, loss: on_progress("sft", step, loss),
    )


def grounding_error_mm(policy: CompactVLA, frames: GroundingFrames, near_cm: float = 1.5) -> np.ndarray:
    """Median absolute error ``[3]`` in millimetres (x, y, z) on frames whose tool is near the target."""
    from pld_core.types import Observation

    near = np.flatnonzero(np.linalg.norm(frames.labels[:, :3], axis=1) < near_cm)
    observations = [
        Observation(
            {name: images[k] for name, images in frames.images.items()},
            frames.proprio[k],
            frames.instructions[frames.instruction_ids[k]],
        )
        for k in near
    ]
    return 10 * np.median(np.abs(policy.ground(observations)[:, :3] - frames.labels[near, :3]), axis=0)
