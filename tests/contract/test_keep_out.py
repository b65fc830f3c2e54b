"""A real arm's tool stays out of boxes, not only its target. Arms in the test's hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from real_arm_tools import CENTRE, PERIOD_S, STATION, IdealArm
from sim_driver_tools import HandTime

from pld_ros.drivers.real_arm import RealArm

BOX = ((0.45, -0.05, 0.15), (0.55, 0.05, 0.35))
SMALL = ((0.58, 0.0, 0.2), (0.585, 0.1, 0.21))
CLOSE_M = 1e-5  # rounding, and the skin of the boxes


class LaggingArm(IdealArm):
    """Goes straight to its target, at a speed of its own."""

    speed_m_s = 0.1

    def go_on(self, seconds: float) -> None:
        left = self.followed[0] - self.position
        far = float(np.linalg.norm(left))
        self.position = self.position + left * min(1.0, self.speed_m_s * seconds / max(far, 1e-12))


def lagging(start: np.ndarray, speed_m_s: float, *boxes: tuple) -> tuple[RealArm, LaggingArm]:
    time = HandTime()
    arm = LaggingArm(time)
    arm.position, arm.follows, arm.speed_m_s = np.array(start), False, speed_m_s
    station = dataclasses.replace(STATION, keep_out_m=boxes)
    driver = RealArm(station, arm, clock=time.clock, sleep=time.sleep, time_ns=time.time_ns)
    driver.connect()
    return driver, arm


def depth(position: np.ndarray, box: tuple) -> float:
    """Metres into the box; 0 outside."""
    low, high = np.array(box)
    return max(0.0, float(np.minimum(position - low, high - position).min()))


def drive(driver: RealArm, arm: LaggingArm, translation: np.ndarray, *boxes: tuple) -> np.ndarray:
    arm.time.now += PERIOD_S
    sent = driver.command(np.array([*translation, 0, 0, 0], np.float32), -1.0)
    for box in boxes:
        assert depth(arm.followed[0], box) < CLOSE_M, "the target"
    for _ in range(5):
        arm.go_on(PERIOD_S / 5)
        for box in boxes:
            assert depth(arm.position, box) < CLOSE_M, "the arm"
    return sent


def test_an_arm_that_lags_cuts_no_corner() -> None:
    driver, arm = lagging(np.array([0.445, -0.02, 0.2]), 0.12, BOX)
    for _ in range(60):
        target = arm.position if driver._target is None else driver._target[0]
        drive(driver, arm, np.array([0, 1, 0] if target[1] < 0.0501 else [1, 0, 0]), BOX)
    assert arm.position[0] > 0.5, "it gets round it all the same"
    assert driver.limited["keep_out"] > 0


def test_what_is_pushed_so_that_a_box_is_between_goes_round_nothing() -> None:
    driver, arm = lagging(np.array([0.44, 0.0, 0.2]), 0.1, SMALL)
    arm.position = np.array([0.595, 0.05, 0.205])
    drive(driver, arm, np.zeros(3), SMALL)
    arm.position = np.array([0.57, 0.05, 0.205])  # its target is behind the box now
    for _ in range(10):
        drive(driver, arm, np.array([0.5, 0, 0]), SMALL)
    assert arm.position[0] == pytest.approx(SMALL[0][0], abs=1e-4)


@pytest.mark.parametrize("depth_m", [1e-4, 0.02])
def test_what_got_in_may_only_get_out(depth_m: float) -> None:
    driver, arm = lagging(np.array([0.45 + depth_m, 0.0, 0.2]), 0.3, BOX)
    for _ in range(3):
        drive(driver, arm, np.array([1, 0, 0]))
    assert arm.position[0] == pytest.approx(0.45 + depth_m)
    for _ in range(5):
        drive(driver, arm, np.array([-1, 0, 0]))
    assert depth(arm.position, BOX) == 0.0


def test_noise_on_a_face_does_not_hold_it_up() -> None:
    driver, arm = lagging(np.array([0.4495, -0.033, 0.2]), 0.3, BOX)
    rng = np.random.default_rng(0)
    drive(driver, arm, np.array([0.2, 0.3, 0.0]))
    for _ in range(20):
        arm.position[0] = 0.45 + rng.normal(0.0, 5e-5)  # as measured
        arm.time.now += PERIOD_S
        assert driver.command(np.array([0, 0.3, 0, 0, 0, 0], np.float32), -1.0)[1] == np.float32(0.3)
        arm.go_on(PERIOD_S)
    assert arm.position[1] == pytest.approx(0.028, abs=0.005)


directions = hnp.arrays(np.float64, 3, elements=st.floats(-1, 1))


@settings(max_examples=150)
@given(
    hnp.arrays(np.float64, 3, elements=st.floats(0.0, 1.0)),
    st.lists(st.tuples(directions, st.integers(1, 6)), min_size=1, max_size=12),
    st.floats(0.02, 0.4),
    st.floats(0.0, 1.0),
)
def test_however_an_arm_is_driven(share, path, speed_m_s, towards) -> None:
    start = np.array(BOX[0]) - 0.03 + share * (np.ptp(BOX, axis=0) + 0.06)
    if depth(start, BOX) or depth(start, SMALL):
        return
    driver, arm = lagging(start, speed_m_s, BOX, SMALL)
    for direction, ticks in path:
        for _ in range(ticks):
            inwards = np.mean(BOX, axis=0) - arm.position
            wanted = direction + towards * inwards / max(float(np.linalg.norm(inwards)), 1e-3)
            drive(driver, arm, np.clip(wanted, -1, 1), BOX, SMALL)


def test_without_a_box_in_the_way_nothing_changes() -> None:
    driver, arm = lagging(CENTRE + [0.15, 0, 0], 0.1, BOX)
    sent = drive(driver, arm, np.array([0.5, 0.25, 0]), BOX)
    assert np.array_equal(sent[:3], np.array([0.5, 0.25, 0], np.float32))
    assert driver.limited["keep_out"] == 0
