"""The owner's five lines: names, and what happens without an arm."""

from __future__ import annotations

import pytest

from pld_core.api import PLD, Pipeline
from pld_core.errors import ConfigError, RobotUnavailableError, UnknownNameError


def test_the_star_import_of_the_readme_brings_robots_and_tasks() -> None:
    names: dict[str, object] = {}
    exec("from pld_core.api import *", names)
    exec("robot, task, reward = YAM_SIM_01(), GPU_Insertion(), binary()", names)
    assert names["robot"].name == "yam_sim_01"
    assert names["task"].name == "gpu_insertion"


def test_a_real_arm_that_is_not_there_is_named_with_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    from pld_core.api import YAM_REAL_01, GPU_Insertion

    monkeypatch.setattr(PLD, "robot", YAM_REAL_01())  # connects nothing
    monkeypatch.setattr(PLD, "task", GPU_Insertion())
    with pytest.raises(RobotUnavailableError, match=r"yam_real_01.*YAM_SIM_01\(\)"):
        PLD.train()


def test_a_task_is_refused_on_a_robot_that_it_is_not_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from pld_core.api import FR3_SIM, GPU_Insertion

    monkeypatch.setattr(PLD, "robot", FR3_SIM())
    monkeypatch.setattr(PLD, "task", GPU_Insertion())
    with pytest.raises(ConfigError, match="made for robot 'yam_sim_01'"):
        PLD.train()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Pipeline]:
    """The pipelines whose ``train`` is called; nothing is trained."""
    pipelines: list[Pipeline] = []
    monkeypatch.setattr(Pipeline, "train", lambda pipeline: pipelines.append(pipeline))
    return pipelines


def test_the_facade_takes_tasks_that_no_preset_is_made_for(
    made: list[Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PLD, "VLA", "my_policy")
    monkeypatch.setattr(PLD, "task", "my_task")
    PLD.train(**{"learn.steps": 7})
    monkeypatch.setattr(PLD, "task", lambda: None)  # an environment of one's own
    PLD.train()
    first, second = (pipeline.config for pipeline in made)
    assert (first.preset, first.task, first.policy, first.robot) == ("custom", "my_task", "my_policy", "none")
    assert (first.learn.steps, first.run_name) == (7, "my_task-seed0")
    assert (second.preset, second.robot) == ("custom", "none")


def test_the_facade_takes_the_preset_of_the_task_unless_told_otherwise(
    made: list[Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pld_core.api import GPU_Insertion

    monkeypatch.setattr(PLD, "task", GPU_Insertion())
    PLD.train()
    PLD.train(preset="debug")
    first, second = (pipeline.config for pipeline in made)
    assert (first.preset, first.robot, first.run_name) == ("gpu_insertion", "yam_sim_01", "gpu_insertion-seed0")
    assert (second.preset, second.robot, second.run_name) == ("debug", "yam_sim_01", "debug-gpu_insertion-seed0")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"robot": "fr3_simm"}, UnknownNameError, "Unknown robot 'fr3_simm'. Did you mean 'fr3_sim'"),
        ({"robot": "yam_sim_01"}, ConfigError, "'peg_insertion' is made for robot 'fr3_sim', not for 'yam_sim_01'"),
        ({"robot": "franka_fr3"}, RobotUnavailableError, "Use the simulated twin, fr3_sim"),
        ({"task": "my_task"}, ConfigError, "No base policy is named for task 'my_task'"),
        ({"preset": "custom"}, ConfigError, "No task is named"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(settings: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Pipeline(**settings)
