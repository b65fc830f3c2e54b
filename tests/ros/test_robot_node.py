"""The robot node before an arm that moves on until it is told to hold. No DDS traffic: callbacks are called."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from pld_msgs.msg import DeltaCommand, OperatorState
from pld_msgs.srv import EStop, Reset
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from pld_core.errors import RobotError
from pld_core.stations import load_robot
from pld_core.types import RobotState
from pld_ros import topics
from pld_ros.convert import time_msg
from pld_ros.nodes import robot as robot_module
from pld_ros.nodes.robot import RESET_AGE_S, WATCHDOG_PERIODS, RobotNode

PERIOD_S, PATIENCE_S = 0.05, 30.0


class Arm:
    """Goes on with its last command for ever; says so."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.limits = self.busy = self.is_broken = False
        self.limited: Counter[str] = Counter()
        self.comes_back: Callable[[], object] = lambda: None  # in its own time

    def spec(self) -> Any:
        return load_robot("fr3_sim").action_spec

    def connect(self) -> None:
        self.calls.append("connect")

    def reset(self, seed: int) -> None:
        self.calls.append("reset")

    def next_state(self, timeout_s: float) -> RobotState | None:
        return None

    def command(self, delta: np.ndarray, gripper: float) -> np.ndarray:
        if not np.isfinite(delta).all():
            raise RobotError("not finite; nothing was sent")
        self.calls.append("command")
        self.limited["workspace"] += self.limits
        return np.append(delta, gripper).astype(np.float32) * (0.5 if self.limits or self.busy else 1.0)

    def hold(self) -> None:
        self.calls.append("hold")

    def stop(self) -> None:
        self.calls.append("stop")

    def recover(self) -> None:
        self.calls.append("recover")
        self.comes_back()
        if self.is_broken:
            raise RobotError("motor 3 is hot")

    def close(self) -> None:
        self.calls.append("close")


class Clock:
    """Monotonic nanoseconds that pass when a test says so; the system clock stands still."""

    def __init__(self) -> None:
        self.ns, self._set_ns = 10**9, time.time_ns()

    def monotonic_ns(self) -> int:
        return self.ns

    def time_ns(self) -> int:
        return self._set_ns

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")

    def pass_periods(self, periods: float) -> None:
        self.ns += round(periods * PERIOD_S * 1e9)


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
    monkeypatch.setattr(robot_module, "make_driver", lambda station, task, realtime: arm)
    rclpy.init()
    made = RobotNode()
    try:
        made.start()
        yield made
    finally:
        made.destroy_node()
        del made._state_machine  # rclpy leaves it to the garbage collector, and the DDS entities with it
        rclpy.try_shutdown()


def give(node: RobotNode, sequence: int, action: Any = 0.1, age_ns: int = 0) -> bool:
    """A command by way of the topic's callback; whether it was carried out."""
    before = node.rates.total("commands")
    size = action if isinstance(action, list) else np.full(7, action, np.float32).tolist()
    message = DeltaCommand(sequence=sequence, action=size)
    message.header.stamp = time_msg(robot_module.time.time_ns() - age_ns)
    node._command(message)
    return node.rates.total("commands") > before


def estop(node: RobotNode, stop: bool) -> EStop.Response:
    """By way of the service's callback."""
    return awaited(node._estop(EStop.Request(stop=stop), EStop.Response()))


def some_state() -> RobotState:
    return RobotState(
        stamp_ns=robot_module.time.time_ns(), proprio=np.zeros(8, np.float32), joint_positions=np.zeros(8),
        joint_names=tuple(f"joint{i}" for i in range(8)), position=np.zeros(3), quaternion=np.array([1.0, 0, 0, 0]),
        gripper_width_m=0.04, mode="moving",
    )  # fmt: skip


def awaited(answer: Coroutine[Any, Any, EStop.Response]) -> EStop.Response:
    """What it comes to, without an executor."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            answer.send(None)
        except StopIteration as over:
            return over.value
        time.sleep(0.001)
    raise AssertionError("no answer")


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


def test_an_arm_that_does_not_recover_stays_stopped(node: RobotNode, arm: Arm) -> None:
    estop(node, True)
    arm.is_broken = True
    answer = estop(node, False)
    assert (answer.ok, answer.message) == (False, "it stays stopped: motor 3 is hot")
    assert not give(node, 1)
    arm.is_broken = False
    assert estop(node, False).ok
    assert give(node, 2)


def test_a_stop_is_obeyed_at_once_and_ends_by_its_service_alone(node: RobotNode, arm: Arm) -> None:
    assert give(node, 1)
    node._operator(OperatorState(estopped=True))
    assert arm.calls[-1] == "stop"
    assert not give(node, 2)
    node._operator(OperatorState(estopped=False))
    assert not give(node, 3)
    answer = node._reset(Reset.Request(seed=1), Reset.Response())
    assert not answer.ok
    assert "emergency stop" in answer.message
    assert estop(node, False).ok
    assert arm.calls[-1] == "recover"
    assert give(node, 4)


class Slow:
    """An arm's recovery that lasts until it is told to end."""

    def __init__(self, arm: Arm) -> None:
        self.begun, self.over = threading.Event(), threading.Event()
        arm.comes_back = self._wait

    def _wait(self) -> None:
        self.begun.set()
        assert self.over.wait(PATIENCE_S)


@pytest.mark.parametrize("by", ["service", "topic"])
def test_a_press_gets_through_while_the_arm_comes_back(node: RobotNode, arm: Arm, by: str) -> None:
    estop(node, True)
    slow = Slow(arm)
    release = node._estop(EStop.Request(stop=False), EStop.Response())
    release.send(None)
    assert slow.begun.wait(PATIENCE_S)
    node._watch()  # nor is it held up
    assert not give(node, 1)
    assert estop(node, False).message == "it stays stopped: it is being released already"
    arm.calls.clear()
    if by == "service":
        assert estop(node, True).ok
    else:
        node._operator(OperatorState(estopped=True))
    assert arm.calls == ["stop"]
    slow.over.set()
    answer = awaited(release)
    assert (answer.ok, answer.message) == (False, "it stays stopped: it was pressed again")
    assert arm.calls[-1] == "stop", "the recovery may have undone it"
    assert not give(node, 2)
    assert estop(node, False).ok
    assert give(node, 3)


def test_a_release_holds_up_no_other_callback(node: RobotNode, arm: Arm) -> None:
    """Over the node's real services."""
    estop(node, True)
    slow, asker, executor = Slow(arm), Node("asker"), SingleThreadedExecutor()
    executor.add_node(node)
    executor.add_node(asker)
    client = asker.create_client(EStop, f"/{node.resolve_service_name(topics.ROBOT_ESTOP).lstrip('/')}")
    try:
        spin_until(executor, client.service_is_ready)
        release = client.call_async(EStop.Request(stop=False))
        spin_until(executor, slow.begun.is_set)
        press = client.call_async(EStop.Request(stop=True))
        spin_until(executor, press.done)
        assert press.result().ok
        assert not release.done()
        slow.over.set()
        spin_until(executor, release.done)
        assert not release.result().ok
    finally:
        executor.shutdown()
        asker.destroy_node()


def spin_until(executor: SingleThreadedExecutor, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        executor.spin_once(timeout_sec=0.1)
        assert time.monotonic() < deadline


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
