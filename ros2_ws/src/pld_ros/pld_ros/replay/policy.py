"""Asks a policy what it would do on recorded observations, and compares that with what was done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pld_core import bring
from pld_core.checkpoint import load_checkpoint
from pld_core.config import TrainConfig
from pld_core.control import ResidualController, SafetyLimits, limits_of
from pld_core.errors import CheckpointError, ConfigError, StageError
from pld_core.interfaces import BasePolicy, ResidualActor
from pld_core.rl.actor import LearnerActor
from pld_core.rl.presets import algorithm
from pld_core.stages.finished_run import FinishedRun
from pld_core.stages.learn import actor_params
from pld_core.stations import load_robot, load_task, task_names
from pld_core.types import Episode, Observation, ObservationSpec
from pld_core.vla.compact_vla import CompactVLA
from pld_ros.replay.twin import plot

COLUMNS = ("base_action", "residual", "action")


def compare_with_policy(
    episodes: Mapping[str, Episode], config: TrainConfig, run: Path, policy: str, specialist: str | None = None
) -> dict[str, Any]:
    """Greatest and mean absolute difference per action entry, over all ticks of the sound episodes.

    Without a specialist only the base's actions are compared.

    On a robot a chunk arrives a tick late, in lockstep at once: 0 is to be expected of the latter only.
    """
    sound = {name: episode for name, episode in episodes.items() if not episode.voided}
    if not sound:
        raise StageError(f"All {len(episodes)} episodes are voided; there is nothing to compare with.")
    first = next(iter(sound.values()))
    limits = _limits(first)
    base = load_policy(policy, config, run)
    actor = load_specialist(Path(specialist), base, first, limits) if specialist else None
    controller = ResidualController(
        base, limits, 1, config.replan_every, algorithm(config.learn.algorithm).residual, config.learn.policy_features
    )
    columns = COLUMNS if actor is not None else COLUMNS[:1]
    found = [_compare(controller, actor, name, episode, columns) for name, episode in sound.items()]
    summary = {
        f"{kind}_{column}": getattr(np.concatenate([e[column] for e in found]), kind)(axis=0).tolist()
        for column in columns
        for kind in ("max", "mean")
    }
    return {
        "task": first.spec.task,
        "policy": base.version,
        "recorded_policy": first.policy_version,
        "ticks": sum(map(len, sound.values())),
        "voided": len(episodes) - len(sound),
        **summary,
        "episodes": [{key: np.asarray(value).tolist() for key, value in e.items()} for e in found],
    }


def load_policy(given: str, config: TrainConfig, run: Path) -> BasePolicy:
    """``base``: the run's own; a path: a CompactVLA checkpoint; else an installed name or module:factory."""
    if given == "base":
        return FinishedRun(run, config).policy
    if Path(given).exists():
        return CompactVLA.load(Path(given))
    if given.endswith(".vla"):
        raise CheckpointError(f"There is no checkpoint {given}. Give an existing .vla file, or base.")
    return bring.base_policy(given)


def load_specialist(path: Path, base: BasePolicy, episode: Episode, limits: SafetyLimits) -> LearnerActor:
    """The residual that the learn stage of a run left behind."""
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint {path}. A run has checkpoints/specialist.ckpt after learning.")
    arrays, metadata = load_checkpoint(path)
    if metadata.get("policy_version") != base.version:
        raise CheckpointError(
            f"{path} corrects the base policy {metadata.get('policy_version')}, given is {base.version}. Give the "
            "base that it was trained on with --policy."
        )
    run = path.resolve().parents[1]
    cameras = {name: (f.shape[1], f.shape[2], f.shape[3]) for name, f in episode.images.items()}
    spec = ObservationSpec(cameras, episode.proprio.shape[1])
    world = SimpleNamespace(observation_spec=spec, action_spec=limits.action_spec)
    work = FinishedRun(run, policy=base, world=world)
    return LearnerActor(work.learner, actor_params(arrays))


def _limits(episode: Episode) -> SafetyLimits:
    """Those of the station that the task is made for, or of the simulation."""
    task = episode.spec.task
    if task in _configured():
        return limits_of(load_robot(load_task(task).robot))
    if task not in task_names():
        raise ConfigError(f"The recording is of the task {task!r}, which is not installed here.")
    environment = bring.environment_factory(task)(1)[0]
    try:
        return SafetyLimits(environment.action_spec, getattr(environment, "workspace", None))
    finally:
        environment.close()


def _configured() -> list[str]:
    from pld_core.config import config_root

    return [path.stem for path in (config_root() / "tasks").glob("*.yaml")]


def _compare(
    controller: ResidualController, actor: ResidualActor | None, name: str, episode: Episode, columns: Sequence[str]
) -> dict[str, Any]:
    """Absolute differences ``[T, A]`` of the columns; where a human drove, the executed action differs."""
    controller.reset(0, episode.spec)
    decided = []
    for t in range(len(episode)):
        images = {camera: frames[t] for camera, frames in episode.images.items()}
        seen = Observation(images, episode.proprio[t], episode.instruction)
        decided.append(controller.tick([0], [seen], actor)[0])
    differences = {
        column: np.abs(np.stack([getattr(tick, column) for tick in decided]) - getattr(episode, column)[: len(episode)])
        for column in columns
    }
    return {"bag": name, **differences}


def draw(result: Mapping[str, Any], path: Path) -> None:
    """The greatest difference of any entry over ticks, one line for each episode."""
    episodes = result["episodes"]
    columns = [column for column in COLUMNS if column in episodes[0]]
    panels = {column: [np.max(episode[column], axis=1).tolist() for episode in episodes] for column in columns}
    plot(panels, f"{result['task']}: policy {result['policy']} against recording", path)
