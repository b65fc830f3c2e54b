"""The robot node before an arm that moves on until it is told to hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from moving_arm import Arm, Clock, give, some_state, started
from pld_msgs.msg import DeltaCommand, OperatorState
from pld_msgs.srv import Reset

from pld_core.errors import RobotError
from pld_ros.convert import time_msg
from pld_ros.nodes import robot as robot_module
from pld_ros.nodes.robot import RESET_AGE_S, WATCHDOG_PERIODS, RobotNode


@pytest.fixture
def arm() -> Arm:
    return Arm()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(robot_module, "time", clock)
    return clock


@pytest.fixture
def node(arm: Arm, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[RobotNode]:
    with started(arm, monkeypatch) as made:
        yield made


def test_an_arm_that_limited_its_command_is_watched_like_any_other(node: RobotNode, arm: Arm, clock: Clock) -> None:
    arm.limits = True
    assert give(node, 1)
    clock.pass_periods(WATCHDOG_PERIODS + 0.1)
    node._watch()
    assert arm.calls[-1] == "hold"


def test_in_a_pause_nothing_is_reset(node: RobotNode, arm: Arm) -> None:
    node._operator(OperatorState(paused=True))
    answer = node._reset(Reset.Request(), Reset.Response())
    assert (answer.ok, answer.message) == (False, "paused by the operator")
    assert "reset" not in arm.calls
    node._operator(OperatorState())
    assert node._reset(Reset.Request(), Reset.Response()).ok


def test_who_asks_again_for_a_reset_gets_the_same_one(node: RobotNode, arm: Arm) -> None:
    over = threading.Event()
    arm.reset = lambda seed: over.wait(10)  # type: ignore[assignment, return-value]
    first = Reset.Request(seed=3, asked_at=time_msg(robot_module.time.time_ns()))
    assert [node._reset(first, Reset.Response()).reset for _ in range(2)] == [1, 1]
    assert not node._reset(Reset.Request(seed=4), Reset.Response()).ok
    over.set()
    assert node._resetting is not None
    node._resetting.join()
    assert node._reset(first, Reset.Response()).reset == 1, "the arm has done it already"
    again = Reset.Request(seed=3, asked_at=time_msg(robot_module.time.time_ns() + 1))
    assert node._reset(again, Reset.Response()).reset == 2, "its state was not told yet"


def test_who_asks_for_a_reset_that_has_failed_is_told_why(node: RobotNode, arm: Arm) -> None:
    def reset(seed: int) -> None:
        raise RobotError("the way home is blocked")

    arm.reset = reset  # type: ignore[method-assign]
    request = Reset.Request(seed=3, asked_at=time_msg(robot_module.time.time_ns()))
    assert node._reset(request, Reset.Response()).ok
    assert node._resetting is not None
    node._resetting.join()
    again = node._reset(request, Reset.Response())
    assert (again.ok, again.message) == (False, "the way home is blocked")
    arm.reset = lambda seed: None  # type: ignore[method-assign]
    another = Reset.Request(seed=3, asked_at=time_msg(robot_module.time.time_ns() + 1))
    for _ in range(2):
        answer = node._reset(another, Reset.Response())
        assert (answer.ok, answer.reset, answer.message) == (True, 1, ""), "what failed was not counted"


def test_a_reset_that_nobody_waits_for_any_more_is_refused(node: RobotNode, arm: Arm) -> None:
    asked_at = time_msg(robot_module.time.time_ns() - round(1e9 * (RESET_AGE_S + 1)))
    answer = node._reset(Reset.Request(seed=3, asked_at=asked_at), Reset.Response())
    assert not answer.ok
    assert "given up" in answer.message
    assert "reset" not in arm.calls


def test_a_pause_ends_the_motion_of_a_reset(node: RobotNode, arm: Arm) -> None:
    under_way, over = threading.Event(), threading.Event()

    def reset(seed: int) -> None:
        under_way.set()
        over.wait(10)

    arm.reset = reset  # type: ignore[method-assign]
    assert node._reset(Reset.Request(), Reset.Response()).ok
    assert under_way.wait(10)
    node._operator(OperatorState(paused=True))
    node._operator(OperatorState(paused=True))
    over.set()
    assert arm.calls.count("hold") == 1


def test_the_silence_after_an_episode_does_not_end_the_reset_of_the_next(
    node: RobotNode, arm: Arm, clock: Clock
) -> None:
    assert give(node, 1)
    over = threading.Event()
    arm.reset = lambda seed: over.wait(10)  # type: ignore[assignment, return-value]
    assert node._reset(Reset.Request(), Reset.Response()).ok
    clock.pass_periods(WATCHDOG_PERIODS + 1)
    node._watch()
    assert "hold" not in arm.calls
    over.set()


def test_silence_ends_in_a_hold(node: RobotNode, arm: Arm, clock: Clock) -> None:
    node._watch()
    assert "hold" not in arm.calls, "nothing moves yet"
    assert give(node, 1)
    clock.pass_periods(WATCHDOG_PERIODS - 0.1)
    node._watch()
    assert "hold" not in arm.calls
    clock.pass_periods(0.2)
    node._watch()
    node._watch()
    assert arm.calls.count("hold") == 1
    assert node.rates.total("watchdog_holds") == 1
    assert give(node, 2), "the next command moves again"
    clock.pass_periods(WATCHDOG_PERIODS + 1)
    node._watch()
    assert arm.calls.count("hold") == 2


def test_a_hold_by_the_watchdog_is_told(
    node: RobotNode, arm: Arm, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(node._states, "publish", lambda message: told.append(message.held))
    node._publish(some_state())
    assert give(node, 1)
    clock.pass_periods(WATCHDOG_PERIODS + 0.1)
    node._watch()
    node._publish(some_state())
    arm.held_ticks = 5  # type: ignore[attr-defined]  # a simulated one counts such periods itself
    node._publish(some_state())
    assert told == [0, 1, 6]


def test_what_must_not_be_carried_out_is_refused(node: RobotNode, arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    assert give(node, 10)
    assert not give(node, 10), "twice"
    assert not give(node, 9), "out of order"
    assert not give(node, 11, [0.1] * 6), "too short"
    assert not give(node, 12, float("nan"))
    monkeypatch.setattr(node, "count_publishers", lambda topic: 2)
    assert not give(node, 13), "two senders"
    monkeypatch.undo()
    assert node.rates.total("refused") == 5
    assert arm.calls.count("command") == 1


def test_an_arm_that_was_not_free_refused_the_command(node: RobotNode, arm: Arm) -> None:
    arm.busy = True
    assert not give(node, 1), "what is recorded would not be what was done"
    assert node.rates.total("refused") == 1


def test_a_command_that_a_limit_shortened_was_carried_out(node: RobotNode, arm: Arm) -> None:
    arm.limits = True
    assert give(node, 1)
    assert node.rates.total("refused") == 0
    assert node.diagnostics()["limited_by_workspace"] == 1


def test_a_command_that_was_decided_on_old_news_is_refused(node: RobotNode, arm: Arm) -> None:
    oldest_ns = round(1e6 * node.station.max_command_age_ms)
    assert give(node, 1, age_ns=oldest_ns - 50_000_000)
    assert not give(node, 2, age_ns=oldest_ns + 1_000_000)
    assert arm.calls.count("command") == 1


@pytest.mark.parametrize(("jump_s", "why"), [(10, "10000 ms ago"), (-10, "10000 ms in the future")])
def test_a_clock_that_is_set_ends_in_a_hold(
    node: RobotNode, arm: Arm, clock: Clock, monkeypatch: pytest.MonkeyPatch, jump_s: int, why: str
) -> None:
    """What was seen by the old clock is of no known age; what is seen by the new one moves the arm again."""
    assert give(node, 1)
    set_ns = robot_module.time.time_ns() + jump_s * 10**9
    monkeypatch.setattr(clock, "time_ns", lambda: set_ns)
    message = DeltaCommand(sequence=2, action=np.full(7, 0.1, np.float32).tolist())
    message.header.stamp = time_msg(set_ns - jump_s * 10**9)
    assert why in node._refusal(message)
    node._command(message)
    assert arm.calls.count("command") == 1
    clock.pass_periods(WATCHDOG_PERIODS + 0.1)
    node._watch()
    assert arm.calls[-1] == "hold"
    message.header.stamp = time_msg(set_ns - 50_000_000)
    node._command(message)
    assert arm.calls[-1] == "command"


def test_a_pause_carries_out_what_was_under_way_and_no_more(node: RobotNode, arm: Arm, clock: Clock) -> None:
    assert give(node, 1)
    node._operator(OperatorState(paused=True))
    assert give(node, 2), "decided before the pause was known"
    clock.pass_periods(1.1)
    node._operator(OperatorState(paused=True))
    assert not give(node, 3)
    clock.pass_periods(WATCHDOG_PERIODS)
    node._watch()
    assert arm.calls[-1] == "hold"
    node._operator(OperatorState(paused=False))
    assert give(node, 4)


def test_an_inactive_node_moves_nothing(node: RobotNode, arm: Arm) -> None:
    node.trigger_deactivate()
    assert arm.calls[-1] == "hold"
    assert not give(node, 1)
    assert not node._reset(Reset.Request(seed=1), Reset.Response()).ok
    node.trigger_activate()
    assert give(node, 2)
