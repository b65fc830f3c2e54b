"""The real driver of the YAM over motors that are simulated."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("i2rt.robots.get_robot", reason="needs the extra 'yam'")
pytest.importorskip("mink", reason="needs the extra 'yam'")

from pld_core.stations import load_robot
from pld_core.types import RobotState
from pld_ros.benches.motor_chain import RESTING, SimulatedMotors
from pld_ros.drivers.real_arm import RealArm
from pld_ros.drivers.yam import YamArm, yam

CHANNEL = "can0"
STATION = dataclasses.replace(load_robot("yam_real_01"), address=CHANNEL, home_joints_rad=RESTING)
# i2rt opens its bus with a keyword that python-can has renamed
I2RT_WARNINGS = pytest.mark.filterwarnings("ignore:.*bustype.*:DeprecationWarning")
PATIENCE_S = 20.0  # on a busy machine
LATE_IS_FINE = {"max_state_age_ms": 10_000.0}  # nor is a busy machine a fault


def make_driver(motors: SimulatedMotors, **options: Any) -> RealArm:
    """Not connected. The gripper's ends are given: to find them takes four seconds."""
    return yam(STATION, **{"gripper_limits_rad": motors.gripper_limits_rad, **options})


def arm_of(driver: RealArm) -> YamArm:
    arm = driver._arm
    assert isinstance(arm, YamArm)
    return arm


@contextmanager
def connected(driver: RealArm) -> Iterator[RealArm]:
    driver.connect()
    try:
        yield driver
    finally:
        driver.close()


def state(driver: RealArm) -> RobotState:
    found = driver.next_state(PATIENCE_S)
    assert found is not None
    return found


def until(condition, what: str, patience_s: float = PATIENCE_S) -> None:
    give_up = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up, f"{what}: not within {patience_s} s"
        time.sleep(0.005)
