"""The system clock is set by ten seconds while an arm moves or a camera delivers: nothing becomes old or new by it.

The arms' drivers of real arms, and what stands between any device and its stamps. What the nodes make of it:
tests/ros/test_robot_node.py and test_ros_body.py. A driver is never asked for the time but through ``time_ns``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from real_arm_tools import IdealArm, forward, made_of, state
from sim_driver_tools import EPOCH_NS, HandTime

from pld_core.stations import CameraConfig
from pld_core.types import RobotState
from pld_ros.drivers import camera_stream
from pld_ros.drivers.camera_stream import Shot, StreamingCamera
from pld_ros.drivers.capture_clock import CaptureClock
from pld_ros.drivers.real_arm import RealArm
from pld_ros.drivers.stamps import stamp_of

JUMPS_NS = (10 * 10**9, -10 * 10**9)
LATE_S = 5.0  # of a busy machine; a clock that had fooled an age would make it ten
LEFT = np.array([0, 0.3, 0, 0, 0, 0], np.float32)


class SettableTime(HandTime):
    """And the system clock may be set."""

    ahead_ns = 0

    def time_ns(self) -> int:
        return super().time_ns() + self.ahead_ns


@pytest.mark.parametrize("jump_ns", JUMPS_NS)
def test_an_arm_in_motion(jump_ns: int) -> None:
    time = SettableTime()
    driver = made_of(time, IdealArm(time))
    driver.connect()
    driver.reset(0)
    for _ in range(5):
        forward(driver, time)
        before = state(driver)
    time.ahead_ns = jump_ns
    after = []
    for _ in range(20):
        assert forward(driver, time, 0.1)[0] == pytest.approx(0.1), "nor is the rate by that clock"
        after.append(state(driver))
        assert after[-1].stamp_ns == time.time_ns(), "the first state has the new time already"
    assert {seen.mode for seen in after} == {"moving"}
    assert (np.diff([seen.stamp_ns for seen in after]) > 0).all()
    assert (after[0].stamp_ns > before.stamp_ns) == (jump_ns > 0)


@pytest.mark.parametrize("jump_ns", JUMPS_NS)
def test_an_arm_that_falls_silent_as_the_clock_is_set(jump_ns: int) -> None:
    time = SettableTime()
    arm = IdealArm(time)
    driver = made_of(time, arm)
    driver.connect()
    forward(driver, time)
    state(driver)
    arm.silent_since, time.ahead_ns = time.now, jump_ns
    while state(driver).mode != "fault":
        assert time.now - arm.silent_since < 0.15
    assert time.now - arm.silent_since > 0.1


def test_stamps_run_back_only_with_the_clock() -> None:
    now = EPOCH_NS
    assert stamp_of(0.1, now, now - 10**9) == now - 10**8
    assert stamp_of(-1.0, now, 0) == now, "nothing is seen before it happens"
    assert stamp_of(0.1, now, now - 10**7) == now - 10**7 + 1, "an age that was estimated better"
    assert stamp_of(0.0, now, now) == now + 1
    assert stamp_of(0.0, now, now + 1) == now + 2, "a clock that stood still was not set back"
    assert stamp_of(0.1, now, now + 10**10) == now - 10**8


@pytest.mark.parametrize("jump_s", [10.0, -10.0])
@pytest.mark.parametrize("late_s", [0.0, 0.3])
def test_a_camera_s_own_clock_that_jumps(jump_s: float, late_s: float) -> None:
    """The estimate begins anew, and no picture is younger than it is by more than the one that came first then."""
    clock = CaptureClock()
    for i in range(60):
        assert clock.taken_s(i / 30, 100 + i / 30 + 0.01) == pytest.approx(100 + i / 30 + 0.01, abs=1e-9)
    for i in range(60, 120):
        under_way_s = late_s if i > 90 else 0.0
        taken_s, arrived_s = 100 + i / 30 + 0.01, 100 + i / 30 + 0.01 + under_way_s
        assert clock.taken_s(i / 30 + jump_s, arrived_s) == pytest.approx(taken_s, abs=1e-3)


class Steady:
    """A device with a picture every 20 ms, each 50 ms old."""

    shape = (4, 4)

    def __init__(self) -> None:
        self.number = 0

    def grab(self, timeout_s: float) -> Shot:
        time.sleep(0.02)
        self.number += 1
        return Shot(self.number, time.monotonic() - 0.05, np.zeros((4, 4, 3), np.uint8))

    def close(self) -> None: ...


@pytest.fixture
def ahead_ns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """By how much the system clock is ahead of the real one."""
    ahead_ns, real_ns = [0], time.time_ns
    monkeypatch.setattr(camera_stream.time, "time_ns", lambda: real_ns() + ahead_ns[0])
    return ahead_ns


@pytest.mark.parametrize("jump_ns", JUMPS_NS)
def test_a_camera_s_stamps(ahead_ns: list[int], jump_ns: int) -> None:
    camera = StreamingCamera(CameraConfig("any", width=4, height=4), Steady)
    camera.open()
    try:
        stamps = [_frame(camera) for _ in range(5)]
        ahead_ns[0] = jump_ns
        after = [_frame(camera) for _ in range(10)]
        assert camera.fault == ""
    finally:
        camera.close()
    assert (after[0] > stamps[-1]) == (jump_ns > 0)
    assert (np.diff(after) > 0).all()


def _frame(camera: StreamingCamera) -> int:
    """The stamp of the next frame, which is 50 ms old by the clock of now."""
    frame = camera.read(LATE_S)
    assert frame is not None
    assert 0.04 < (time.time_ns() - frame.stamp_ns) / 1e9 < LATE_S
    return frame.stamp_ns


@pytest.mark.parametrize("jump_ns", JUMPS_NS)
@pytest.mark.filterwarnings("ignore:.*bustype.*:DeprecationWarning")  # i2rt opens its bus with a renamed keyword
@pytest.mark.parametrize("arm", ["calm", "yam"])
def test_a_vendor_s_arm_in_motion(request: pytest.FixtureRequest, arm: str, jump_ns: int) -> None:
    driver, jumped_ns = request.getfixturevalue(arm), 0
    driver._time_ns = lambda: time.time_ns() + jumped_ns
    driver.reset(0)
    _moving(driver)
    jumped_ns = jump_ns
    began = time.monotonic()
    seen = [_moving(driver) for _ in range(10)]
    took_s = time.monotonic() - began
    print(f"measured: {type(driver.arm).__name__}, clock set by {jump_ns / 1e9:+.0f} s: 10 commands in {took_s:.2f} s")
    for each in seen:
        assert each.fault == ""
    assert (np.diff([each.stamp_ns for each in seen]) > 0).all()
    assert abs(seen[-1].stamp_ns - time.time_ns() - jump_ns) < LATE_S * 1e9


def _moving(driver: RealArm) -> RobotState:
    driver.command(LEFT, -1.0)
    time.sleep(0.05)
    seen = driver.next_state(LATE_S)
    assert seen is not None
    return seen


@pytest.fixture
def yam() -> Iterator[RealArm]:
    """Connected; a busy machine is no fault."""
    from yam_tools import CHANNEL, LATE_IS_FINE, connected, make_driver  # which skip without the extra

    from pld_ros.benches.motor_chain import SimulatedMotors

    with SimulatedMotors(CHANNEL) as motors, connected(make_driver(motors, **LATE_IS_FINE)) as driver:
        yield driver
