"""What can go wrong with a Franka's hand: made to happen to a hand in the test's own hand, and to the real franky."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from franka_tools import CALM, PATIENCE_S, driver_at, set_in_motion, state, wait_for
from pulse import Pulse

from pld_core.errors import RobotFaultError
from pld_core.types import RobotState
from pld_ros.benches.franka_simulator import FrankaSimulator
from pld_ros.drivers import franka_hand
from pld_ros.drivers.franka_hand import SILENCE_S, HandLink

OPEN_M, SPEED_M_S, STROKE_S = 0.08, 0.1, 0.8
DETECTION_S = 0.15


class Motion:
    """The future of one."""

    def __init__(self, name: str) -> None:
        self.name, self.over = name, threading.Event()

    def wait(self, timeout_s: float | None = None) -> bool:
        return self.over.wait(timeout_s)

    def get(self) -> bool:
        return True


class Hand:
    """Answers as long as it is ``answering``; ends a motion when a test says so, or when it is told to stop."""

    def __init__(self) -> None:
        self.answering, self.motions = threading.Event(), []
        self.answering.set()

    @property
    def state(self) -> Any:
        assert self.answering.wait(PATIENCE_S)
        return SimpleNamespace(max_width=OPEN_M, width=0.04)

    def _begin(self, name: str) -> Motion:
        self.motions.append(Motion(name))
        return self.motions[-1]

    def move_async(self, *_: float) -> Motion:
        return self._begin("open")

    def grasp_async(self, *_: float) -> Motion:
        return self._begin("close")

    def stop(self) -> None:
        self.motions[-1].over.set()


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def link(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> Iterator[HandLink]:
    monkeypatch.setattr(franka_hand, "library", lambda: SimpleNamespace(Gripper=lambda address: hand))
    monkeypatch.setattr(franka_hand, "_SLACK_S", 0.2)
    made = HandLink("somewhere", OPEN_M, SPEED_M_S, 20.0)
    assert made.check(time.monotonic()) == "", "it is not open yet"
    made.start(PATIENCE_S)
    yield made
    hand.answering.set()
    assert made.end(PATIENCE_S), "whatever it waits for"


def fall_silent(link: HandLink, hand: Hand) -> float:
    """When it was heard last."""
    hand.answering.clear()
    time.sleep(2 * link.period_s)  # an answer may be under way
    return link.heard_at


def test_a_hand_that_says_nothing_is_a_fault(link: HandLink, hand: Hand) -> None:
    heard_at = fall_silent(link, hand)
    link.grip(False)
    assert link.check(heard_at + 0.9 * SILENCE_S) == "", "a real one takes up to 100 ms"
    assert "said nothing for 330 ms" in link.check(heard_at + 1.1 * SILENCE_S)
    assert not link.is_busy, "nobody waits for it"
    with pytest.raises(RobotFaultError, match="said nothing"):
        link.grip(True)
    hand.answering.set()
    wait_for(lambda: link.heard_at > heard_at, "it is heard again")
    assert link.check(link.heard_at), "it stays a fault until somebody has looked"
    assert hand.motions == [], "what was asked before is not done any more"


def test_an_arm_that_is_silent_too_is_no_fault_of_the_hand(link: HandLink, hand: Hand) -> None:
    heard_at = fall_silent(link, hand)
    assert link.check(heard_at - 0.01) == ""


def test_a_motion_that_never_ends_is_a_fault(link: HandLink, hand: Hand) -> None:
    link.grip(False)
    wait_for(lambda: bool(hand.motions) and link._future is not None, "it closes")
    began_at = link._began_at
    assert began_at is not None
    link.grip(True)
    assert link.check(link.heard_at) == ""
    link._silence_s = float("inf")
    assert "not ended its motion for 3.0 s" in link.check(began_at + 3.0)
    with pytest.raises(RobotFaultError, match="not ended its motion"):
        link.grip(True)
    hand.motions[0].over.set()
    wait_for(lambda: link._future is None, "it has ended after all")
    assert [motion.name for motion in hand.motions] == ["close"], "nothing moves after a fault"


def test_a_hand_that_does_not_end_its_motion_is_let_go_of(link: HandLink, hand: Hand) -> None:
    link.grip(False)
    wait_for(lambda: link._future is not None, "it closes")
    assert link.end(PATIENCE_S)


def test_a_motion_has_its_time(link: HandLink, hand: Hand) -> None:
    link._silence_s = float("inf")
    for opened in (False, True):
        link.grip(opened)
        wait_for(lambda: link._future is not None, "it moves")
        assert link._began_at is not None
        assert link.check(link._began_at + STROKE_S) == ""
        hand.motions[-1].over.set()
        wait_for(lambda: not link.is_busy, "it is there")
    assert link.check(link.heard_at + 60.0) == "", "it is at rest"


def test_the_real_library_with_a_frozen_hand_in_a_grasp(simulator: FrankaSimulator) -> None:
    link = HandLink(simulator.host, OPEN_M, SPEED_M_S, 20.0)
    link.start(PATIENCE_S)
    try:
        link.grip(False)
        wait_for(lambda: link.is_busy and link._future is not None, "it closes")
        with Pulse() as pulse:
            os.kill(simulator.pid, signal.SIGSTOP)
            frozen_at = time.monotonic()
            told_s = wait_for(lambda: bool(link.check(time.monotonic())), "it is told")
        print(f"measured: hand frozen in a grasp: fault after {1e3 * (time.monotonic() - frozen_at):.0f} ms")
        assert told_s < SILENCE_S + DETECTION_S + pulse.worst_s
        assert "said nothing" in link.fault
    finally:
        os.kill(simulator.pid, signal.SIGCONT)
        assert link.end(PATIENCE_S)


def test_a_driver_whose_hand_alone_falls_silent(simulator: FrankaSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    franky, answering = pytest.importorskip("franky"), threading.Event()
    answering.set()

    class Mute(franky.Gripper):
        @property
        def state(self) -> Any:
            assert answering.wait(PATIENCE_S)
            return super().state

    monkeypatch.setattr(franky, "Gripper", Mute)
    driver = driver_at(simulator.host, **CALM)
    driver.connect()
    try:
        set_in_motion(driver)
        arm: Any = driver.arm
        arm._hand._silence_s = SILENCE_S
        with Pulse() as pulse:
            answering.clear()
            silent_at = time.monotonic()
            told = first(lambda: state(driver), lambda seen: bool(seen.fault))
            told_s = time.monotonic() - silent_at
        print(f"measured: the hand alone is silent: fault after {1e3 * told_s:.0f} ms")
        assert "the hand has said nothing" in told.fault
        assert told_s < SILENCE_S + DETECTION_S + pulse.worst_s
        answering.set()
        driver.recover()
        assert state(driver).mode != "fault"
    finally:
        answering.set()
        driver.close()


def first(ask: Callable[[], RobotState], wanted: Callable[[RobotState], bool]) -> RobotState:
    give_up = time.monotonic() + PATIENCE_S
    while not wanted(seen := ask()):
        assert time.monotonic() < give_up
    return seen
