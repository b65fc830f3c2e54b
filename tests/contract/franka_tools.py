"""What the tests of the Franka driver share."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pld_core.errors import RobotFaultError, RobotUnavailableError
from pld_core.stations import RobotConfig, load_robot
from pld_core.types import RobotState
from pld_ros.drivers.franka import franka
from pld_ros.drivers.real_arm import RealArm

HOME_RAD = (0.0, 0.1, 0.0, -2.2, 0.0, 2.3, 0.7853)  # the tool centre near the middle of the workspace
CALM = {"max_state_age_ms": 3000.0}  # for what is no silence; how fast a fault is found: test_franka_faults
PATIENCE_S = 60.0  # of tests on a machine with other work; never waited for where all goes well


def station_at(host: str, **changes: Any) -> RobotConfig:
    return dataclasses.replace(
        load_robot("franka_fr3"), address=host, home_joints_rad=HOME_RAD, driver_options={}, **changes
    )


def driver_at(host: str, **options: Any) -> RealArm:
    """Not connected; faster than the shipped station, which saves the tests' time."""
    return franka(station_at(host), **{"dynamics_factor": 0.4, "connect_timeout_s": PATIENCE_S, **options})


def wait_for(condition: Callable[[], bool], what: str) -> float:
    """Seconds until ``condition`` held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE_S, f"not within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.005)
    return time.monotonic() - began


def state(driver: RealArm) -> RobotState:
    found = driver.next_state(PATIENCE_S)
    assert found is not None
    return found


def sideways(driver: RealArm, ticks: int, share: float = 0.5) -> np.ndarray:
    """Commands along y in the rhythm of 20 Hz; how far they were sent, metres."""
    due, sent_m = time.monotonic(), 0.0
    for _ in range(ticks):
        sent_m += 0.01 * driver.command(np.array([0, share, 0, 0, 0, 0], np.float32), -1.0)[1]
        due = max(due + 0.05, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    return np.array([0.0, sent_m, 0.0])


def set_in_motion(driver: RealArm) -> None:
    """Reset, and move. A machine so busy that the simulator falls silent by itself gets another chance."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            driver.reset(0)
            sideways(driver, 5)
            assert state(driver).mode == "moving"
            return
        except (RobotFaultError, AssertionError):
            if time.monotonic() > give_up:
                raise
            recover(driver)


def recover(driver: RealArm) -> None:
    """As a person does: again, until the arm answers."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            return driver.recover()
        except RobotUnavailableError:
            if time.monotonic() > give_up:
                raise
