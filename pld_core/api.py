"""The public face: ``Pipeline`` for programs, the ``PLD`` facade for five-line scripts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pld_core import registry, robots
from pld_core.config import TrainConfig, check_keys, from_dict, load_config, to_dict, validate
from pld_core.errors import ConfigError
from pld_core.rewards import binary
from pld_core.robots import Robot
from pld_core.stages.pipeline import Pipeline

__all__ = ["PLD", "Pipeline", "Robot", "Task", "binary"]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task by its registered name; made by calling one, as in ``GPU_Insertion()``."""

    name: str


class PLD:
    """The owner's five lines::

        PLD.VLA = "compact"
        PLD.robot = YAM_SIM_01()
        PLD.task = GPU_Insertion()
        PLD.Reward = binary()
        VLA_star = PLD.train()

    What is not set comes from the task's preset. ``train`` takes settings of TrainConfig as
    keywords (``**{"learn.steps": 20_000}``) and returns the distilled policy.
    """

    VLA: Any = "compact"
    robot: Robot | None = None
    task: Task | str = "peg_insertion"
    Reward: Any = "binary"

    @classmethod
    def train(cls, **settings: Any) -> Any:
        task = cls.task.name if isinstance(cls.task, Task) else cls.task
        if cls.robot is not None:
            cls.robot.require(task)
            settings = {"robot": cls.robot.name, **settings}
        return Pipeline(preset=task, base_policy=cls.VLA, reward=cls.Reward, **settings).train()


def __getattr__(name: str) -> Any:
    """``YAM_SIM_01`` and ``GPU_Insertion``: every known robot and task, spelled as classes are."""
    lowered = name.lower()
    if lowered in registry.names("robots") or lowered in robots.station_names():
        return lambda: robots.load(lowered)
    if lowered in registry.names("tasks"):
        return lambda: Task(lowered)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
