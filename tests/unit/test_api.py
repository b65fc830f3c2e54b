"""The owner's five lines: names, and what happens without an arm."""

from __future__ import annotations

import pytest

from pld_core.errors import RobotUnavailableError


def test_the_star_import_of_the_readme_brings_robots_and_tasks() -> None:
    names: dict[str, object] = {}
    exec("from pld_core.api import *", names)
    exec("robot, task, reward = YAM_SIM_01(), GPU_Insertion(), binary()", names)
    assert names["robot"].name == "yam_sim_01"
    assert names["task"].name == "gpu_insertion"


def test_a_real_arm_that_is_not_there_is_named_with_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    from pld_core.api import PLD, YAM_REAL_01, GPU_Insertion

    monkeypatch.setattr(PLD, "robot", YAM_REAL_01())  # connects nothing
    monkeypatch.setattr(PLD, "task", GPU_Insertion())
    with pytest.raises(RobotUnavailableError, match=r"yam_real_01.*YAM_SIM_01\(\)"):
        PLD.train()


def test_a_task_is_refused_on_a_robot_that_it_is_not_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from pld_core.api import FR3_SIM, PLD, GPU_Insertion

    monkeypatch.setattr(PLD, "robot", FR3_SIM())
    monkeypatch.setattr(PLD, "task", GPU_Insertion())
    with pytest.raises(RobotUnavailableError, match="made for 'yam_sim_01'"):
        PLD.train()
