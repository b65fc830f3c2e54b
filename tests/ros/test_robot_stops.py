"""The robot node: an emergency stop, and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from moving_arm import PATIENCE_S, Arm, Clock, awaited, estop, give, started
from pld_msgs.msg import OperatorState
from pld_msgs.srv import EStop, Reset
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from pld_ros import topics
from pld_ros.nodes import robot as robot_module
from pld_ros.nodes.robot import RobotNode


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
