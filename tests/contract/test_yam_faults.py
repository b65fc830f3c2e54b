"""What goes wrong with a YAM, and what its driver makes of it. Each fault is put in at the simulated motors."""

from __future__ import annotations

import ctypes
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
from pulse import Pulse
from yam_tools import (
    CHANNEL,
    I2RT_WARNINGS,
    LATE_IS_FINE,
    PATIENCE_S,
    STATION,
    arm_of,
    connected,
    make_driver,
    state,
    until,
)

from pld_core.errors import RobotFaultError, RobotUnavailableError
from pld_ros.benches.motor_chain import LOSS_OF_COMMUNICATION, SimulatedMotors
from pld_ros.drivers.real_arm import RealArm
from pld_ros.drivers.yam import yam

pytestmark = I2RT_WARNINGS
WITHIN_S = 0.15
FORWARD = np.array([0.5, 0, 0, 0, 0, 0], np.float32)
STALLED_S = 0.02  # of a thread that does nothing but sleep: this machine is too busy to time anything


@pytest.fixture
def motors() -> Iterator[SimulatedMotors]:
    with SimulatedMotors(CHANNEL) as motors:
        yield motors


@pytest.fixture
def driver(motors: SimulatedMotors) -> Iterator[RealArm]:
    """Connected, and come home."""
    with connected(make_driver(motors, **LATE_IS_FINE)) as driver:
        driver.reset(0)
        yield driver


@pytest.fixture(autouse=True)
def unseen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was raised in a background thread and nowhere else: nothing may be."""
    raised: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(f"{args.thread}: {args.exc_value!r}"))
    yield raised
    assert raised == []


def move(driver: RealArm) -> None:
    """A few commands at 20 Hz, so that the fault finds the arm on its way."""
    for _ in range(4):
        driver.command(FORWARD, -1.0)
        time.sleep(0.05)


def strict(driver: RealArm) -> None:
    """From here on a state may be 100 ms old, as is the default."""
    driver._max_age_s = 0.1


def lenient(driver: RealArm) -> None:
    driver._max_age_s = arm_of(driver)._max_gap_s = 10.0


def found(driver: RealArm, cause: str, breaks: Callable[[], None]) -> None:
    """The fault is told by the states that follow, within its time where this machine leaves us ours."""
    breaks()
    since = time.monotonic()
    with Pulse() as pulse:
        while (seen := driver.next_state(0.05)) is None or seen.mode != "fault":
            assert time.monotonic() - since < PATIENCE_S, f"no fault within {PATIENCE_S} s"
        took_s = time.monotonic() - since
    print(f"measured: found after {1e3 * took_s:.0f} ms, held up {1e3 * pulse.worst_s:.0f} ms: {seen.fault}")
    assert cause in seen.fault
    assert took_s < WITHIN_S or pulse.worst_s > STALLED_S


def refused(driver: RealArm, motors: SimulatedMotors) -> None:
    """Nothing is carried out any more, and the arm rests."""
    with pytest.raises(RobotFaultError, match="recover"):
        driver.command(FORWARD, -1.0)
    with pytest.raises(RobotFaultError):
        driver.reset(1)
    driver.hold()
    driver.stop()

    def rests() -> bool:
        before = motors.joint_positions
        time.sleep(0.1)
        return bool(np.abs(motors.joint_positions - before).max() < 2e-3)

    until(rests, "the arm rests")
    before = motors.joint_positions
    time.sleep(0.2)
    assert motors.joint_positions == pytest.approx(before, abs=0.01)  # 0.04 would be one command more


def recovered(driver: RealArm, motors: SimulatedMotors) -> None:
    """The arm has stayed where it was, and goes on."""
    before = motors.joint_positions
    lenient(driver)
    driver.recover()
    assert motors.joint_positions == pytest.approx(before, abs=0.02)
    assert state(driver).fault == ""
    assert state(driver).mode in ("idle", "holding")
    x = state(driver).position[0]
    move(driver)
    until(lambda: state(driver).position[0] > x + 0.01, "the arm moves again")


def broken_by(
    driver: RealArm, motors: SimulatedMotors, cause: str, breaks: Callable[[], None], mends: Callable[[], None]
) -> None:
    move(driver)
    found(driver, cause, breaks)
    refused(driver, motors)
    mends()
    recovered(driver, motors)


def test_a_motor_error(driver: RealArm, motors: SimulatedMotors) -> None:
    cause = "motor id: 3, error: loss communication"
    broken_by(driver, motors, cause, partial(motors.fail, 3, LOSS_OF_COMMUNICATION), motors.mend)


def test_a_motor_error_that_lasts(driver: RealArm, motors: SimulatedMotors) -> None:
    found(driver, "motor id: 6", partial(motors.fail, 6, LOSS_OF_COMMUNICATION))
    with pytest.raises(RobotUnavailableError, match=r"Motor 6 .* 'loss communication' and cannot be cleared"):
        driver.recover()
    assert state(driver).mode == "fault"
    motors.mend()
    recovered(driver, motors)


def test_a_silent_motor(driver: RealArm, motors: SimulatedMotors) -> None:
    strict(driver)
    broken_by(driver, motors, "the arm has said nothing for", partial(motors.silence, 2), motors.mend)


def test_the_bus_is_gone(driver: RealArm, motors: SimulatedMotors) -> None:
    def unplug() -> None:
        motors.unplugged = True

    def unplugged_still() -> None:
        with pytest.raises(RobotUnavailableError, match=r"Motor 1 .* does not answer"):
            driver.recover()
        assert state(driver).mode == "fault"
        motors.mend()

    strict(driver)
    broken_by(driver, motors, "the arm has said nothing for", unplug, unplugged_still)


def test_slow_answers(driver: RealArm, motors: SimulatedMotors) -> None:
    def slow_down() -> None:
        motors.delay_s = 0.03  # times seven motors

    strict(driver)
    broken_by(driver, motors, "the arm has said nothing for", slow_down, motors.mend)


def test_the_streaming_thread_is_dead(driver: RealArm, motors: SimulatedMotors) -> None:
    def advance(seconds: float) -> None:
        raise ZeroDivisionError("for the test")

    arm, cause = arm_of(driver), "the thread that streams to the arm has ended: ZeroDivisionError: for the test"
    mends = partial(setattr, arm, "_advance", arm._advance)
    broken_by(driver, motors, cause, partial(setattr, arm, "_advance", advance), mends)


def test_the_machine_has_no_time_for_the_arm(driver: RealArm, motors: SimulatedMotors) -> None:
    def starve() -> None:
        arm_of(driver)._max_gap_s = 0.1
        ctypes.PyDLL(None).usleep(400_000)  # which keeps every thread of this process from running

    broken_by(driver, motors, "this machine had no time for the arm", starve, lambda: None)


def test_a_fault_ends_the_way_home(driver: RealArm, motors: SimulatedMotors) -> None:
    driver._station = dataclasses.replace(STATION, home_joints_rad=(1.0, *STATION.home_joints_rad[1:]))
    errors: list[BaseException] = []

    def reset() -> None:
        try:
            driver.reset(1)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=reset)
    thread.start()
    until(lambda: motors.joint_positions[0] > 0.1 or not thread.is_alive(), "the arm is on its way")
    motors.fail(4, LOSS_OF_COMMUNICATION)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert len(errors) == 1
    assert state(driver).mode == "fault"


def test_a_motor_fails_while_the_gripper_looks_for_its_ends(motors: SimulatedMotors) -> None:
    driver = make_driver(motors, gripper_limits_rad=None, **LATE_IS_FINE)
    width, errors = motors.gripper_width_m, []

    def connect() -> None:
        try:
            driver.connect()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    until(lambda: motors.gripper_width_m < width - 0.01 or not thread.is_alive(), "the gripper moves")
    motors.fail(2, LOSS_OF_COMMUNICATION, lasting=False)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert len(errors) == 1
    assert isinstance(errors[0], RobotUnavailableError)
    assert "motor id: 2" in str(errors[0])
    assert arm_of(driver)._chain._limits is None, "they are looked for anew"


def test_a_channel_that_is_not_there() -> None:
    driver = yam(dataclasses.replace(STATION, address="can7"))
    assert driver.spec() == STATION.action_spec
    with pytest.raises(RobotUnavailableError, match=r"can7 cannot be opened.*ip link set can7 up"):
        driver.connect()


def test_a_closed_arm_may_be_connected_after_a_fault(motors: SimulatedMotors) -> None:
    driver = make_driver(motors, **LATE_IS_FINE)
    with connected(driver):
        strict(driver)
        found(driver, "the arm has said nothing for", partial(motors.silence, 1))
    motors.mend()
    lenient(driver)
    with connected(driver):
        assert state(driver).fault == ""
    assert not [thread for thread in threading.enumerate() if "yam" in thread.name or "robot_server" in thread.name]
