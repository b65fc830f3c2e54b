"""While an arm takes its seconds to connect or to come back, nobody waits with it. An arm in the test's hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from real_arm_tools import CENTRE, IdealArm, forward, made_of, state
from robot_driver_contract import GENTLE
from sim_driver_tools import HandTime

from pld_core.errors import RobotError
from pld_ros.drivers.real_arm import RealArm

PATIENCE_S = 30.0


@pytest.fixture
def time() -> HandTime:
    return HandTime()


@pytest.fixture
def arm(time: HandTime) -> IdealArm:
    return IdealArm(time)


@pytest.fixture
def driver(time: HandTime, arm: IdealArm) -> RealArm:
    """In motion when a motor became hot."""
    made = made_of(time, arm)
    made.connect()
    made.reset(0)
    forward(made, time)
    arm.reported = "motor 3 is hot"
    assert state(made).mode == "fault"
    return made


class Call:
    """A call that the arm blocks, on a thread of its own. ``over`` lets the arm go on."""

    def __init__(self, arm: IdealArm, call: Callable[[], None]) -> None:
        self.begun, self.over, self.raised = threading.Event(), threading.Event(), ""
        self._call = call
        arm.comes_back = self._block
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self.begun.wait(PATIENCE_S)
        arm.comes_back = lambda: None

    def _block(self) -> None:
        self.begun.set()
        assert self.over.wait(PATIENCE_S)

    def _run(self) -> None:
        try:
            self._call()
        except RobotError as error:
            self.raised = str(error)

    def end(self) -> None:
        self.over.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@contextmanager
def under_way(arm: IdealArm, call: Callable[[], None]) -> Iterator[Call]:
    made = Call(arm, call)
    try:
        yield made
    finally:
        made.end()


def test_states_go_on_with_the_last_measurement_and_the_fault(driver: RealArm, arm: IdealArm) -> None:
    before = state(driver)
    with under_way(arm, driver.recover) as call:
        arm.broken = "nobody may call an arm that is being rebuilt"
        told = [state(driver) for _ in range(5)]
        arm.broken = ""
    assert call.raised == ""
    assert {seen.fault for seen in told} == {"motor 3 is hot"}
    assert all(seen.position == pytest.approx(before.position) for seen in told)
    stamps = [seen.stamp_ns for seen in (before, *told)]
    assert stamps == sorted(set(stamps))
    assert state(driver).mode == "holding"


def test_a_stop_gets_through_and_the_arm_stays_stopped(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    driver.stop()
    with under_way(arm, driver.recover):
        driver.stop()
        driver.hold()
    assert state(driver).mode == "stopped"
    with pytest.raises(RobotError, match="emergency stop"):
        forward(driver, time)
    driver.recover()
    forward(driver, time)


def test_a_stop_from_before_is_over(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    driver.stop()
    with under_way(arm, driver.recover):
        pass
    forward(driver, time)


def test_whatever_else_calls_the_arm_is_refused(driver: RealArm, arm: IdealArm) -> None:
    with under_way(arm, driver.recover):
        calls = list(arm.calls)
        for refused in (
            driver.recover, driver.connect, lambda: driver.reset(1), lambda: driver.command(GENTLE, 0.0),
        ):  # fmt: skip
            with pytest.raises(RobotError, match="being recovered"):
                refused()
        assert arm.calls == calls


def test_a_close_waits_for_the_recovery(driver: RealArm, arm: IdealArm) -> None:
    closing = threading.Thread(target=driver.close)
    with under_way(arm, driver.recover):
        closing.start()
        assert "disconnect" not in arm.calls
    closing.join(PATIENCE_S)
    assert arm.calls[-2:] == ["recover", "disconnect"]


def test_a_recovery_that_fails_leaves_the_fault_and_frees_the_arm(driver: RealArm, arm: IdealArm) -> None:
    def fails() -> None:
        raise RobotError("no answer")

    arm.comes_back = fails
    with pytest.raises(RobotError, match="no answer"):
        driver.recover()
    assert state(driver).fault == "motor 3 is hot"
    arm.comes_back = lambda: None
    driver.recover()
    assert state(driver).mode == "holding"


def test_connecting_holds_up_neither_stop_nor_hold(time: HandTime, arm: IdealArm) -> None:
    driver = made_of(time, arm)
    with under_way(arm, driver.connect):
        driver.stop()
        driver.hold()
        for refused in (driver.connect, driver.recover):
            with pytest.raises(RobotError, match="being connected"):
                refused()
        with pytest.raises(RobotError, match=r"not connected"):
            driver.next_state(0.0)
    assert state(driver).mode == "stopped"


def test_disconnecting_holds_up_neither_stop_nor_hold(driver: RealArm, arm: IdealArm) -> None:
    with under_way(arm, driver.close):
        driver.stop()
        driver.hold()
        with pytest.raises(RobotError, match="being disconnected"):
            driver.connect()
        with pytest.raises(RobotError, match="not connected"):
            driver.command(GENTLE, 0.0)


def test_a_way_home_is_not_revived_by_the_recovery(time: HandTime, arm: IdealArm) -> None:
    """The reset's thread may see only after the recovery that the reset was ended."""
    ended: list[bool] = []

    def fail_and_recover() -> None:
        driver.stop()
        arm.reported = "motor 3 is hot"
        assert state(driver).mode == "fault"
        driver.recover()
        ended.append(arm.is_ended())

    driver = made_of(time, arm)
    driver.connect()
    arm.on_way_home = fail_and_recover
    with pytest.raises(RobotError, match="ended by a hold or an emergency stop"):
        driver.reset(0)
    assert ended == [True]
    assert state(driver).resets == 0
    assert arm.position == pytest.approx(CENTRE)
