"""An arm that lags is not led beyond its joints' margins. The margins are real, by MuJoCo; the arm is a gantry."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_arm_tools import CENTRE, PERIOD_S, IdealArm, made_of
from sim_driver_tools import HandTime

from pld_core.control import rotations
from pld_ros.drivers.arm import Pose, Reading
from pld_ros.drivers.kinematics import JointMargins
from pld_ros.drivers.real_arm import RealArm

MARGIN, END = 0.05, 0.6  # rad, and metres
AXES = ("x", "y", "z", "roll", "pitch", "yaw")
SLIDES = "".join(
    f'<joint name="{name}" type="slide" axis="{axis}" range="-1 1"/>'
    for name, axis in zip(AXES, ("1 0 0", "0 1 0", "0 0 1"))
)
TURNS = "".join(
    f'<joint name="{name}" type="hinge" axis="{axis}" range="-{END} {END}" limited="true"/>'
    for name, axis in zip(AXES[3:], ("1 0 0", "0 1 0", "0 0 1"))
)
GANTRY = f"""<mujoco><compiler angle="radian"/><worldbody><body name="tool"><inertial pos="0 0 0" mass="1"
diaginertia="1 1 1"/>{SLIDES}{TURNS}</body></worldbody></mujoco>"""


class LaggingGantry(IdealArm):
    """Three slides and a wrist that is asked to turn about z only; goes a share of what is left in each period."""

    joint_names = AXES
    pace = 0.15

    def __init__(self, time: HandTime) -> None:
        super().__init__(time)
        self.margins = JointMargins(
            mujoco.MjSpec.from_string(GANTRY),  # pyright: ignore[reportAttributeAccessIssue]  # of a binary module
            AXES, "tool", (0.0, 0.0, 0.0), MARGIN, 0.1, rotations.STRAIGHT_DOWN.tolist(),
        )  # fmt: skip
        self.joints = np.array([*CENTRE, 0.0, 0.0, 0.0])
        self.goal = self.joints.copy()

    def read(self) -> Reading:
        self.position = self.joints[:3].copy()
        self.quaternion = rotations.multiply(rotations.quat_from_rotvec(self.joints[3:]), rotations.STRAIGHT_DOWN)
        return super().read()

    def reachable(self, joint_positions: np.ndarray, target: Pose, step: np.ndarray) -> float:
        return self.margins.reachable(joint_positions, target, step)

    def follow(self, position: np.ndarray, quaternion: np.ndarray) -> None:
        self.goal = np.append(position, rotations.rotvec_between(quaternion, rotations.STRAIGHT_DOWN))

    def go_on(self) -> None:
        self.joints = self.joints + self.pace * (self.goal - self.joints)


def lagging(pace: float = 0.15) -> tuple[RealArm, LaggingGantry]:
    time = HandTime()
    arm = LaggingGantry(time)
    arm.pace = pace
    driver = made_of(time, arm)
    driver.connect()
    return driver, arm


def turn(driver: RealArm, arm: LaggingGantry, *shares: float, along: float = 0.0) -> list[float]:
    """Commands of yaw, a period each; the yaw after each of them."""
    yaws = []
    for share in shares:
        arm.time.now += PERIOD_S
        driver.command(np.array([0, along, 0, 0, 0, share], np.float32), -1.0)
        arm.go_on()
        yaws.append(float(arm.joints[5]))
    return yaws


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_is_on_its_way_counts(sign: float) -> None:
    driver, arm = lagging()
    yaws = turn(driver, arm, *[sign] * 60)
    assert max(sign * np.array(yaws)) <= END - MARGIN + 1e-3
    assert sign * yaws[-1] > END - MARGIN - 0.01, "all of the room is used"
    assert driver.limited["joints"] > 40


def test_the_way_back_is_free_at_once() -> None:
    driver, arm = lagging()
    turn(driver, arm, *[1.0] * 20)
    arm.time.now += PERIOD_S
    sent = driver.command(np.array([0, 0, 0, 0, 0, -1], np.float32), -1.0)
    assert sent[5] == pytest.approx(-1.0, abs=1e-3)


def test_a_lead_that_is_too_far_already_grows_no_more() -> None:
    driver, arm = lagging(pace=0.0)
    turn(driver, arm, 1.0)
    arm.joints[5] = 0.45  # pushed
    yaw = np.array([0, 0, 0.65])  # beyond the margin, as by a model that is not quite the arm
    driver._target = arm.position, rotations.multiply(rotations.quat_from_rotvec(yaw), rotations.STRAIGHT_DOWN)
    arm.time.now += PERIOD_S
    sent = driver.command(np.array([0.5, 0, 0, 0, 0, 0.5], np.float32), -1.0)
    assert sent[:6] == pytest.approx(np.zeros(6), abs=1e-6)
    assert driver.limited["joints"] == 1
    arm.time.now += PERIOD_S
    assert driver.command(np.array([0, 0, 0, 0, 0, -0.5], np.float32), -1.0)[5] == pytest.approx(-0.5)


@settings(max_examples=50)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.floats(0.02, 1.0), st.floats(-1, 1))
def test_however_it_is_turned(shares: list[float], pace: float, along: float) -> None:
    driver, arm = lagging(pace)
    assert np.abs(turn(driver, arm, *shares, along=along)).max() <= END - MARGIN + 1e-3
