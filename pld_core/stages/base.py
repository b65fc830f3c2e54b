"""The half-working base VLA: grounding pre-training, then SFT on a few oracle demonstrations."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pld_core import bring
from pld_core.config import TrainConfig
from pld_core.stages.base_data import BaseData, TaskData
from pld_core.types import Episode, Observation
from pld_core.vla.compact_vla import CompactVLA
from pld_core.vla.frames import GroundingFrames
from pld_core.vla.model import CompactVLAConfig

Progress = Callable[[str, int, float], None]


def make_base(config: TrainConfig, path: Path, on_progress: Progress = lambda phase, done, loss: None) -> CompactVLA:
    """Train one CompactVLA for all of ``config.base.tasks`` and save it at ``path``.

    The pre-training labels are where the instruction's target is: what a large VLA brings along from
    pointing and grounding data. The demonstrations are few, so the action head is imprecise.
    """
    base = config.base
    # Data and pre-training are the longest parts by far: a kill must not cost them.
    data, state_path = BaseData(_data_folder(path), config), _state_path(path)
    found: list[TaskData] = []
    for task, count in zip(base.tasks, base.demonstrations, strict=True):
        found.append(data.of(task, count))
        on_progress(f"frames and demonstrations of {task}", len(found[-1].frames), 0.0)
    (environment,) = bring.environment_factory(base.tasks[0])(1)
    with contextlib.closing(environment):
        actions, shape = environment.action_spec, CompactVLAConfig(head=base.head)
        policy = CompactVLA.create(environment.observation_spec, actions.dim, shape, seed=config.seed)
    frames = GroundingFrames.concatenate([each.frames for each in found])
    policy = pretrain(policy, frames, config, state_path, on_progress)
    for task, each in zip(base.tasks, found, strict=True):
        error_mm = grounding_error_mm(policy, each.held_out)
        on_progress(f"error in mm near the target of {task}", len(each.held_out), error_mm)
    demonstrations = [episode for each in found for episode in each.demonstrations]
    policy = tune(policy, demonstrations, config, actions.gripper, on_progress)
    policy.save(path)
    remove_leftovers(path)
    return policy


def remove_leftovers(path: Path) -> None:
    """What was kept for a kill while the base at ``path`` was made."""
    _state_path(path).unlink(missing_ok=True)
    shutil.rmtree(_data_folder(path), ignore_errors=True)


def _data_folder(path: Path) -> Path:
    return path.with_name("base_data")


def _state_path(path: Path) -> Path:
    return path.with_name("grounding.state")


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
