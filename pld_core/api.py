"""The public face: ``Pipeline`` for programs, the ``PLD`` facade for five-line scripts."""

from __future__ import annotations

import dataclasses
from typing import Any

from pld_core import stations
from pld_core.rewards import binary
from pld_core.stages.pipeline import Pipeline
from pld_core.stations import RobotConfig

# The stations and tasks that ship; __getattr__ below makes them, and those of other packages.
_STATIONS = ["FRANKA_FR3", "FR3_SIM", "YAM_REAL_01", "YAM_SIM_01"]
_TASKS = ["Cube_Pickup", "GPU_Insertion", "Peg_Insertion"]
__all__ = ["PLD", "Pipeline", "Task", "binary", *_STATIONS, *_TASKS]  # noqa: PLE0604 (lists of strings)


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

    VLA is a policy, a callable or a name; task also anything that ``Pipeline`` takes as environment.
    What is not set comes from the task's preset. ``train`` takes settings of TrainConfig as keywords,
    as in ``PLD.train(**{"learn.steps": 20_000})``, and returns the distilled policy.
    """

    VLA: Any = "compact"
    robot: RobotConfig | None = None
    task: Any = "peg_insertion"
    Reward: Any = "binary"

    @classmethod
    def train(cls, **settings: Any) -> Any:
        """The whole loop; RobotUnavailableError where a real arm is named and cannot be reached."""
        task = cls.task.name if isinstance(cls.task, Task) else cls.task
        if cls.robot is not None:
            settings = {"robot": cls.robot.name, **settings}
        return Pipeline(task, cls.VLA, cls.Reward, **settings).train()


def __getattr__(name: str) -> Any:
    """``YAM_SIM_01`` and ``GPU_Insertion``: every known robot and task, spelled as classes are.

    Calling a robot reads its station file and connects nothing.
    """
    lowered = name.lower()
    if lowered in stations.robot_names():
        return lambda: stations.load_robot(lowered)
    if lowered in stations.task_names():
        return lambda: Task(lowered)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
