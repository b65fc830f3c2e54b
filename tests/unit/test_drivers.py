"""Drivers by name, the cameras of the simulated twin, and what importing them costs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from pld_core import registry
from pld_core.errors import ConfigError, ContractError, UnknownNameError
from pld_core.stations import load_robot, load_task
from pld_ros.drivers import make_driver
from pld_ros.drivers.real_arm import RealArm
from pld_ros.drivers.sim import SimDriver
from pld_ros.drivers.sim_arm import make_simulator
from pld_ros.drivers.sim_camera import SimCameras
from pld_sim.tabletop import TASKS, make_environments

LIST_HEAVY_MODULES = """
import sys
import pld_ros.drivers.sim, pld_ros.drivers.sim_camera
print([name for name in ("rclpy", "pld_msgs", "jax", "mujoco") if name in sys.modules])
"""


def real_arm(station, speed: float = 1.0):
    """Stands in for a vendor's driver."""
    return SimpleNamespace(station=station, speed=speed)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_simulated_station_has_the_twin(task):
    station = load_robot(load_task(task).robot)
    driver = make_driver(station, task, realtime=False)
    assert isinstance(driver, SimDriver)
    assert driver.spec() == station.action_spec


def test_an_unknown_driver_is_refused_with_what_there_is():
    assert registry.names("drivers") == ["franka", "simulated", "yam"]
    with pytest.raises(UnknownNameError, match=r"robot driver 'frank'.*Valid: franka, simulated, yam"):
        make_driver(dataclasses.replace(load_robot("franka_fr3"), driver="frank"), "peg_insertion")


@pytest.mark.parametrize("name", ["franka_fr3", "yam_real_01"])
def test_every_shipped_station_has_a_driver(name):
    station = load_robot(name)
    driver = make_driver(station, "cube_pickup")
    assert isinstance(driver, RealArm)
    assert driver.spec() == station.action_spec


def test_a_real_arms_driver_is_made_from_its_station():
    station = dataclasses.replace(
        load_robot("franka_fr3"), driver=f"{__name__}:real_arm", driver_options={"speed": 0.5}
    )
    made = make_driver(station, "peg_insertion")
    assert (made.station, made.speed) == (station, 0.5)
    with pytest.raises(ConfigError, match="haste"):
        make_driver(dataclasses.replace(station, driver_options={"haste": 1}), "peg_insertion")


def test_a_station_must_mean_the_same_by_an_action():
    station = dataclasses.replace(load_robot("fr3_sim"), translation_m=0.005)
    with pytest.raises(ConfigError, match="translation_m"):
        make_driver(station, "peg_insertion")


def test_only_arms_can_be_driven():
    with pytest.raises(ConfigError, match="tabletop"):
        make_simulator("point_reach")
    with pytest.raises(UnknownNameError, match="peg_insertion"):
        SimDriver("peg_insertoin").connect()


def test_importing_drivers_is_cheap_and_needs_no_ros():
    done = subprocess.run([sys.executable, "-c", LIST_HEAVY_MODULES], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("task", sorted(TASKS))
def test_cameras_draw_what_the_environment_delivers(task):
    driver, cameras, env = SimDriver(task, realtime=False), SimCameras(task), make_environments(task, 1)[0]
    driver.connect()
    driver.reset(7)
    observation = env.reset(7).observation
    for action in np.random.default_rng(0).uniform(-0.5, 0.5, (5, 7)).astype(np.float32):
        state = driver.next_state(0.0)
        pictures = cameras.render(state.snapshot)
        assert set(pictures) == set(observation.images) == set(cameras.cameras)
        for name, image in observation.images.items():
            assert np.array_equal(pictures[name], image)
            assert cameras.cameras[name] == image.shape
        driver.command(action[:6], float(action[6]))
        observation = env.step(action).observation
    with pytest.raises(ContractError, match="shape"):
        cameras.render(np.zeros(3))
    for opened in (driver, cameras, env):
        opened.close()
