"""What the YAML says of stations and tasks is what the simulator does."""

from __future__ import annotations

import numpy as np
import pytest

from pld_core import stations
from pld_core.config import config_root
from pld_core.errors import ConfigError
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


def test_a_box_that_is_given_twice_does_not_vanish(tmp_path) -> None:
    text = (config_root() / "robots" / "franka_fr3.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text("keep_out_m: [[[0.3, -0.1, 0.0], [0.4, 0.1, 0.1]]]\n" + text)
    with pytest.raises(ConfigError, match="'keep_out_m' is given twice, on line 1 and on line "):
        stations.load_robot(str(path))


def test_a_station_that_is_no_utf_8_text_is_refused(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes("# Tischhöhe\ndriver: simulated\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"mine\.yaml is not UTF-8 text: byte 0xf6 on line 1"):
        stations.load_robot(str(path))
