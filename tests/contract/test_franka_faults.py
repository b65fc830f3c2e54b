"""What can go wrong with a Franka, made to happen to the real franky on a simulator of libfranka's protocol.

Not provable without an arm: that a real reflex, the pressed stop and guiding look to franky as they are imitated
here, how long a real control box takes to recover, and what the hand does when it drops something.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from franka_tools import (
    CALM,
    PATIENCE_S,
    driver_at,
    recover,
    set_in_motion,
    sideways,
    state,
    station_at,
    wait_for,
)
from pulse import Pulse

from pld_core.errors import RobotError, RobotFaultError, RobotUnavailableError
from pld_core.types import RobotState
from pld_ros.benches.franka_simulator import FrankaSimulator
from pld_ros.drivers.franka import franka
from pld_ros.drivers.real_arm import RealArm

franky = pytest.importorskip("franky", reason="needs the extra 'franka'")

DETECTION_S = 0.150
NOWHERE = "127.253.253.253"  # no simulator: they stay below
LEFT = np.array([0, 0.5, 0, 0, 0, 0], np.float32)


@pytest.fixture
def driver(simulator: FrankaSimulator) -> Iterator[RealArm]:
    made = driver_at(simulator.host)
    made.connect()
    yield made
    made.close()


def silence(driver: RealArm, simulator: FrankaSimulator, number: int, commands: bool = True) -> tuple[float, Pulse]:
    """Seconds from the signal to the simulator until the driver told a fault, commanded at 20 Hz meanwhile."""
    with Pulse() as pulse:
        sent_at = time.monotonic()
        os.kill(simulator.pid, number)
        due, seen = sent_at, state(driver)
        while seen.mode != "fault":
            assert time.monotonic() - sent_at < PATIENCE_S
            if commands and time.monotonic() >= due:
                due += 0.05
                try:
                    driver.command(LEFT, -1.0)
                except RobotFaultError:
                    break
            seen = driver.next_state(0.02) or seen
        detected_s = time.monotonic() - sent_at
    return detected_s, pulse


def expect_fault(driver: RealArm, match: str) -> RobotState:
    """It tells the fault, again and again, and refuses whatever is asked."""
    with pytest.raises(RobotFaultError, match=match):
        driver.command(LEFT, -1.0)
    with pytest.raises(RobotFaultError, match="recover"):
        driver.reset(0)
    for _ in range(3):
        seen = state(driver)
        assert seen.mode == "fault"
    return seen


def expect_in_order(driver: RealArm) -> None:
    set_in_motion(driver)
    before = state(driver).position
    sideways(driver, 4)
    wait_for(lambda: state(driver).position[1] > before[1] + 0.005, "motion after the recovery")
    driver.hold()


def test_killed_in_motion(driver: RealArm, simulator: FrankaSimulator) -> None:
    set_in_motion(driver)
    detected_s, pulse = silence(driver, simulator, signal.SIGKILL)
    print(f"measured: killed in motion: fault after {1e3 * detected_s:.0f} ms (held up {1e3 * pulse.worst_s:.0f} ms)")
    assert detected_s < DETECTION_S + pulse.worst_s
    expect_fault(driver, "said nothing")
    began = time.monotonic()
    with pytest.raises(RobotUnavailableError, match=r"no connection.*Check its power"):
        driver.recover()
    print(f"measured: in vain: recover() gave up after {time.monotonic() - began:.2f} s")
    expect_fault(driver, "said nothing")
    driver.stop()  # neither of them fails
    driver.hold()
    simulator.kill()
    simulator.start()
    began = time.monotonic()
    recover(driver)
    print(f"measured: recover() connected to the restarted simulator in {time.monotonic() - began:.2f} s")
    expect_in_order(driver)


def test_frozen_in_motion(driver: RealArm, simulator: FrankaSimulator) -> None:
    set_in_motion(driver)
    try:
        detected_s, pulse = silence(driver, simulator, signal.SIGSTOP)
        print(f"measured: frozen in motion: fault after {1e3 * detected_s:.0f} ms (+{1e3 * pulse.worst_s:.0f} ms)")
        assert detected_s < DETECTION_S + pulse.worst_s
        expect_fault(driver, "said nothing")
        for name, call in (("hold", driver.hold), ("stop", driver.stop)):
            began = time.monotonic()
            call()
            print(f"measured: {name}() on a frozen arm returned after {1e3 * (time.monotonic() - began):.1f} ms")
        driver._arm._timeout_s = 1.0
        began = time.monotonic()
        with pytest.raises(RobotUnavailableError, match=r"said nothing|still waits|no connection"):
            driver.recover()
        print(f"measured: recover() of a frozen arm gave up after {time.monotonic() - began:.2f} s")
        assert state(driver).mode == "fault"
    finally:
        os.kill(simulator.pid, signal.SIGCONT)
    driver._arm._timeout_s = PATIENCE_S
    recover(driver)
    expect_in_order(driver)


def test_frozen_at_rest(driver: RealArm, simulator: FrankaSimulator) -> None:
    """franky's own reading waits for a second then; the driver's does not."""
    set_in_motion(driver)
    driver.hold()
    time.sleep(0.5)
    if state(driver).mode == "fault":
        recover(driver)
    try:
        detected_s, pulse = silence(driver, simulator, signal.SIGSTOP, commands=False)
    finally:
        os.kill(simulator.pid, signal.SIGCONT)
    print(f"measured: frozen at rest: fault after {1e3 * detected_s:.0f} ms (held up {1e3 * pulse.worst_s:.0f} ms)")
    assert detected_s < DETECTION_S + pulse.worst_s
    expect_fault(driver, "said nothing")
    recover(driver)
    expect_in_order(driver)


def test_killed_on_the_way_home(simulator: FrankaSimulator) -> None:
    driver = franka(station_at(simulator.host), dynamics_factor=0.05, max_state_age_ms=60_000.0)
    driver.connect()
    try:
        driver.command(LEFT, -1.0)
        threading.Timer(0.5, simulator.kill).start()
        began = time.monotonic()
        away = np.array([0.5, 0.1, 0.0, -2.2, 0.0, 2.3, 0.7853])
        with pytest.raises(RobotError):  # nobody reads states here, so franky's own alarm has to do
            driver._arm.go_home(away, lambda: False)
        print(f"measured: killed on the way home, nobody watching: error after {time.monotonic() - began - 0.5:.2f} s")
    finally:
        driver.close()
        simulator.kill()
        simulator.start()


@pytest.mark.parametrize(("address", "match"), [(NOWHERE, "FCI"), ("", "no address"), ("no.such.host", "address")])
def test_refused_at_the_start(address: str, match: str) -> None:
    driver = driver_at(address)
    began = time.monotonic()
    with pytest.raises(RobotUnavailableError, match=match):
        driver.connect()
    print(f"measured: nobody at {address!r}: refused after {1e3 * (time.monotonic() - began):.0f} ms")
    with pytest.raises(RobotError, match="connect"):
        driver.command(LEFT, 0.0)


def test_a_target_out_of_reach(calm: RealArm, simulator: FrankaSimulator) -> None:
    """The guard lets none pass; should one, franky says nothing until the next motion, and then no error of its own."""
    set_in_motion(calm)
    arm = calm._arm
    seen = arm.read()
    give_up = time.monotonic() + PATIENCE_S
    while not calm._observed().fault:
        assert time.monotonic() < give_up
        try:
            arm.follow(seen.position + [1.5, 0, 0], seen.quaternion)
        except RobotFaultError:
            break
        time.sleep(0.05)
    print(f"measured: out of reach: {state(calm).fault[:90]}")
    expect_fault(calm, "franky gave up|stopped")
    recover(calm)
    assert state(calm).mode != "fault"
    # The simulated arm has no joint stops and may be folded in a way it never leaves again.
    calm.close()
    simulator.kill()
    simulator.start()
    calm.connect()
    expect_in_order(calm)


def test_a_command_from_a_thread_after_a_stop(calm: RealArm) -> None:
    set_in_motion(calm)
    stopped, raised = threading.Event(), []

    def command() -> None:
        stopped.wait()
        for _ in range(5):
            try:
                calm.command(LEFT, -1.0)
            except RobotError as error:
                raised.append(str(error))
            time.sleep(0.05)

    thread = threading.Thread(target=command)
    thread.start()
    calm.stop()
    stopped.set()
    thread.join()
    assert len(raised) == 5
    assert all("recover" in message for message in raised)
    before = state(calm).position
    time.sleep(0.3)
    assert np.linalg.norm(state(calm).position - before) < 5e-3, "it comes to rest"
    assert state(calm).mode == "stopped"
    recover(calm)
    expect_in_order(calm)


def test_a_stop_ends_the_way_home(simulator: FrankaSimulator) -> None:
    driver = franka(station_at(simulator.host), dynamics_factor=0.05, **CALM)
    driver.connect()
    try:
        driver.command(LEFT, -1.0)
        sideways(driver, 20)
        driver.hold()
        time.sleep(0.5)
        began = time.monotonic()
        threading.Timer(0.2, driver.stop).start()
        with pytest.raises(RobotError, match="ended by a hold or an emergency stop"):
            driver.reset(0)
        print(f"measured: a stop after 0.2 s ended the way home after {time.monotonic() - began:.2f} s")
        assert state(driver).mode == "stopped"
    finally:
        driver.close()


class Reported:
    """A robot's state with something else to report."""

    def __init__(self, state: Any, mode: Any, errors: str) -> None:
        self._state, self.robot_mode, self.current_errors = state, mode, errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)


class Imitated(franky.Robot):
    """Real in all but this: it says what an arm says that stopped by reflex, until its errors are cleared."""

    how = ""
    recoveries = 0

    def poll_motion(self) -> bool:
        if Imitated.how == "raised":
            raise franky.ControlException(
                'libfranka: Move command aborted: motion aborted by reflex! ["cartesian_reflex"]'
            )
        return super().poll_motion()

    @property
    def state(self) -> Any:
        real = super().state
        if Imitated.how == "reported":
            return Reported(real, franky.RobotMode.Reflex, "[cartesian_reflex]")
        return Reported(real, franky.RobotMode.UserStopped, "[]") if Imitated.how == "pressed" else real

    def recover_from_errors(self) -> bool:
        Imitated.recoveries += 1
        if Imitated.how == "stuck":
            return False
        Imitated.how = ""
        return super().recover_from_errors()


@pytest.mark.parametrize(
    ("how", "match"), [("raised", "reflex.*Free the arm"), ("reported", "reflex.*free the arm"), ("pressed", "stop")]
)
def test_a_reflex(simulator: FrankaSimulator, monkeypatch: pytest.MonkeyPatch, how: str, match: str) -> None:
    monkeypatch.setattr(franky, "Robot", Imitated)
    monkeypatch.setattr(Imitated, "how", "")
    driver = driver_at(simulator.host, **CALM)
    driver.connect()
    try:
        set_in_motion(driver)
        before, began = Imitated.recoveries, time.monotonic()
        with Pulse() as pulse:
            Imitated.how = how
            while state(driver).mode != "fault":
                assert time.monotonic() - began < PATIENCE_S
            told_s = time.monotonic() - began
        print(f"measured: a reflex ({how}) was told after {1e3 * told_s:.0f} ms")
        assert told_s < DETECTION_S + pulse.worst_s
        expect_fault(driver, match)
        assert Imitated.recoveries == before, "nothing recovers by itself"
        Imitated.how = "stuck"
        with pytest.raises(RobotFaultError, match="did not recover"):
            driver.recover()
        expect_fault(driver, match)
        Imitated.how = how
        driver.recover()
        assert Imitated.recoveries == before + 2
        expect_in_order(driver)
    finally:
        driver.close()
