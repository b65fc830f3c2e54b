"""An arm whose time and faults are in the test's hand, and the driver over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from sim_driver_tools import HandTime

from pld_core.control import rotations
from pld_core.errors import RobotError
from pld_core.stations import load_robot
from pld_core.types import RobotState
from pld_ros.drivers.arm import Pose, Reading
from pld_ros.drivers.real_arm import RealArm

HOME_RAD = (0.1, 0.2)
STATION = dataclasses.replace(load_robot("franka_fr3"), home_joints_rad=HOME_RAD)
CENTRE = np.array([0.5, 0.0, 0.25])
PERIOD_S = 0.05


class IdealArm:
    """Is at once where it is told to go, until it falls silent or breaks."""

    joint_names = ("shoulder", "elbow")

    def __init__(self, time: HandTime) -> None:
        self.time = time
        self.position, self.quaternion = CENTRE, rotations.STRAIGHT_DOWN
        self.joints, self.width_m = np.zeros(2), 0.04
        self.follows = True
        self.silent_since: float | None = None
        self.reported = self.broken = ""
        self.share = 1.0
        self.calls: list[str] = []
        self.on_way_home: Callable[[], None] = lambda: None
        self.comes_back: Callable[[], None] = lambda: None  # or goes, in its own time

    def _do(self, call: str) -> None:
        self.calls.append(call)
        if self.broken:
            raise RobotError(self.broken)

    def connect(self) -> None:
        self._do("connect")
        self.comes_back()

    def read(self) -> Reading:
        if self.broken:
            raise RobotError(self.broken)
        heard_at = self.time.now if self.silent_since is None else self.silent_since
        return Reading(heard_at, self.joints, self.position, self.quaternion, self.width_m, self.reported)

    def tool_at(self, joint_positions: np.ndarray) -> np.ndarray:
        return CENTRE + np.append(joint_positions - HOME_RAD, 0.0)

    def reachable(self, joint_positions: np.ndarray, target: Pose, step: np.ndarray) -> float:
        return self.share

    def follow(self, position: np.ndarray, quaternion: np.ndarray) -> None:
        self._do("follow")
        self.followed = position, quaternion
        if self.follows:
            self.position, self.quaternion = position, quaternion

    def grip(self, opened: bool) -> None:
        self._do("open" if opened else "close")

    def halt(self) -> None:
        self._do("halt")

    def recover(self) -> None:
        self._do("recover")
        self.comes_back()
        self.reported = ""

    def go_home(self, joint_positions: np.ndarray, is_ended: Callable[[], bool]) -> None:
        self._do(f"home {joint_positions.tolist()}")
        self.is_ended = is_ended
        self.on_way_home()

    def close(self) -> None:
        self.calls.append("disconnect")
        self.comes_back()


def made_of(time: HandTime, arm: IdealArm) -> RealArm:
    return RealArm(STATION, arm, clock=time.clock, sleep=time.sleep, time_ns=time.time_ns)


def state(driver: RealArm) -> RobotState:
    found = driver.next_state(1.0)
    assert found is not None
    return found


def forward(driver: RealArm, time: HandTime, share: float = 1.0) -> np.ndarray:
    """One command along x, a period after the one before."""
    time.now += PERIOD_S
    return driver.command(np.array([share, 0, 0, 0, 0, 0], np.float32), -1.0)
