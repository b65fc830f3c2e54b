"""What the YAML says of stations and tasks is what the simulator does."""

from __future__ import annotations

import numpy as np
import pytest

from pld_core import stations
from pld_sim.tabletop.control import PROPRIO_NAMES
from pld_sim.tabletop.environment import CAMERAS
from pld_sim.tabletop.models import FR3
from pld_sim.tabletop.tasks import TASKS
from pld_sim.tabletop.yam import YAM


@pytest.mark.parametrize("name", sorted(TASKS))
def test_task_and_simulator_agree(name: str) -> None:
    simulated, told = TASKS[name], stations.load_task(name)
    station = stations.load_robot(told.robot)
    assert (told.instruction, told.max_steps) == (simulated.instruction, simulated.max_steps)
    assert station.is_simulated
    assert station.action_spec == simulated.actions
    assert np.less_equal(station.workspace_m[0], simulated.workspace.lower).all()
    assert np.greater_equal(station.workspace_m[1], simulated.workspace.upper).all()


@pytest.mark.parametrize(("name", "arm"), [("fr3_sim", FR3), ("yam_sim_01", YAM)])
def test_station_and_simulator_agree(name: str, arm) -> None:
    station = stations.load_robot(name)
    assert station.proprio == PROPRIO_NAMES
    assert tuple(station.cameras) == CAMERAS
    assert station.gripper_open_m == pytest.approx(2 * arm.finger_open + arm.pad_gap)


def test_every_task_has_a_station_that_it_may_run_on() -> None:
    for name in TASKS:
        stations.check_station(stations.load_task(name).robot, name)
        stations.check_station(stations.NO_ROBOT, name)
