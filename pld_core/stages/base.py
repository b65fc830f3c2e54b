"""The half-working base VLA: grounding pre-training, then SFT on a few oracle demonstrations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pld_core import bring
from pld_core.config import TrainConfig
from pld_core.stages.demonstrate import BurstNoise, demonstrate
from pld_core.types import Episode, Observation
from pld_core.vla.compact_vla import CompactVLA
from pld_core.vla.frames import GroundingFrames, collect_grounding_frames
from pld_core.vla.model import CompactVLAConfig

Progress = Callable[[str, int, float], None]
_LANES = 8  # environments that take turns while frames are collected, at most


def make_base(config: TrainConfig, path: Path, on_progress: Progress = lambda phase, done, loss: None) -> CompactVLA:
    """Train one CompactVLA for all of ``config.base.tasks`` and save it at ``path``.

    The pre-training labels are where the instruction's target is: what a large VLA brings along from
    pointing and grounding data. The demonstrations are few, so the action head is imprecise.
    """
    base = config.base
    frames, held_out, demonstrations = [], [], []
    for task, count in zip(base.tasks, base.demonstrations, strict=True):
        environments = bring.environment_factory(task)(min(_LANES, config.lanes))
        frames.append(collect_grounding_frames(environments, base.grounding_frames, config.seed))  # type: ignore[arg-type]
        on_progress(f"frames of {task}", len(frames[-1]), 0.0)
        held_out.append(collect_grounding_frames(environments, base.grounding_frames // 20, config.seed + 1))  # type: ignore[arg-type]
        made = demonstrate(environments[0], count, config.seed, BurstNoise())  # type: ignore[arg-type]
        demonstrations += made
        on_progress(f"demonstrations of {task}", len(made), 0.0)
        for environment in environments:
            environment.close()
    actions = environments[0].action_spec
    shape = CompactVLAConfig(head=base.head)
    policy = CompactVLA.create(environments[0].observation_spec, actions.dim, shape, seed=config.seed)
    state_path = path.with_name("grounding.state")  # the longest part by far: a kill must not cost it
    policy = pretrain(policy, GroundingFrames.concatenate(frames), config, state_path, on_progress)
    for task, some in zip(base.tasks, held_out, strict=True):
        on_progress(f"error in mm near the target of {task}", len(some), grounding_error_mm(policy, some))
    policy = tune(policy, demonstrations, config, actions.gripper, on_progress)
    policy.save(path)
    state_path.unlink(missing_ok=True)
    return policy


def pretrain(
    policy: CompactVLA, frames: GroundingFrames, config: TrainConfig, state_path: Path, on_progress: Progress
) -> CompactVLA:
    return policy.pretrain_grounding(
        frames,
        steps=config.base.grounding_steps,
        batch_size=config.base.batch_size,
        seed=config.seed,
        state_path=state_path,
        progress=lambda step, loss: on_progress("grounding", step, loss),
    )


def tune(
    policy: CompactVLA, episodes: list[Episode], config: TrainConfig, gripper: int | None, on_progress: Progress
) -> CompactVLA:
    """SFT of the action head alone, so that the features stay those of the pre-training."""
    return policy.sft(
        episodes,
        mode="head",
        gripper=gripper,
        steps=config.base.steps,
        batch_size=config.base.batch_size,
        learning_rate=config.base.learning_rate,
        seed=config.seed,
        progress=lambda step, loss: on_progress("sft", step, loss),
    )


def grounding_error_mm(policy: CompactVLA, frames: GroundingFrames, near_cm: float = 3.5) -> float:
    """Median distance in millimetres between where the encoder sees the target and where it is,
    over frames whose tool is near it (NaN if none is)."""
    near = np.flatnonzero(np.linalg.norm(frames.labels[:, :3], axis=1) < near_cm)
    observations = [
        Observation(
            {name: images[k] for name, images in frames.images.items()},
            frames.proprio[k],
            frames.instructions[frames.instruction_ids[k]],
        )
        for k in near
    ]
    misses = np.linalg.norm(policy.ground(observations)[:, :3] - frames.labels[near, :3], axis=1)
    return float(10 * np.median(misses)) if len(misses) else float("nan")
