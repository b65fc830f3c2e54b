"""The robot node's life, with a real arm's driver: connected, moving, at rest, let go of, and all of it again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.lifecycle import TransitionCallbackReturn

from pld_core.control import rotations
from pld_core.errors import RobotError
from pld_core.stations import load_robot
from pld_core.types import RobotState
from pld_ros.drivers.arm import Reading
from pld_ros.drivers.real_arm import RealArm
from pld_ros.nodes import robot as robot_module
from pld_ros.nodes.robot import RobotNode

PATIENCE_S = 30.0
DONE = TransitionCallbackReturn.SUCCESS


class Still:
    """An ``Arm`` that stays where it is."""

    joint_names = ("shoulder", "elbow")

    def connect(self) -> None: ...
    def halt(self) -> None: ...
    def close(self) -> None: ...

    def read(self) -> Reading:
        return Reading(
            time.monotonic(), np.zeros(2), np.array([0.5, 0.0, 0.25]), rotations.STRAIGHT_DOWN.copy(), 0.04, ""
        )


class Strict:
    """A driver that lets nobody leave ``next_state`` before it is closed, and is then angry with him."""

    limited: dict[str, int] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.closed, self.asked = threading.Event(), threading.Event()
        self.calls: list[str] = []

    def spec(self) -> Any:
        return load_robot("franka_fr3").action_spec

    def connect(self) -> None:
        self.calls.append("connect")
        self.closed.clear()
        self.asked.clear()

    def next_state(self, timeout_s: float) -> RobotState | None:
        self.asked.set()
        assert self.closed.wait(PATIENCE_S)
        raise RobotError("The arm is not connected; call connect() first.")

    def hold(self) -> None:
        self.calls.append("hold")

    def close(self) -> None:
        self.calls.append("close")
        self.closed.set()


class Worker:
    """What ``run_node`` does on the main thread."""

    def __init__(self, node: RobotNode) -> None:
        self._node, self.raised = node, []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._node.work()
        except Exception as error:
            self.raised.append(error)

    @property
    def works(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(PATIENCE_S)


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], tuple[RobotNode, Worker]]]:
    """A node at work with this driver."""
    rclpy.init()
    begun: list[tuple[RobotNode, Worker]] = []

    def begin(driver: Any) -> tuple[RobotNode, Worker]:
        monkeypatch.setattr(robot_module, "make_driver", lambda station, task, realtime: driver)
        node = RobotNode()
        node.start()
        begun.append((node, Worker(node)))
        return begun[0]

    yield begin
    node, worker = begun[0]
    node.close()
    rclpy.try_shutdown()
    worker.join()
    node.destroy_node()
    del node._state_machine  # rclpy leaves it to the garbage collector, and the DDS entities with it
    begun.clear()


def wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_a_real_arm_is_let_go_of_and_taken_again(begin: Callable[[Any], tuple[RobotNode, Worker]]) -> None:
    arm: Any = Still()
    node, worker = begin(RealArm(load_robot("franka_fr3"), arm, max_state_age_ms=1000 * PATIENCE_S))
    for _ in range(3):
        told = node.rates.total("states")
        wait_for(lambda told=told: node.rates.total("states") > told + 2 or not worker.works)
        assert worker.raised == []
        assert node.trigger_deactivate() == DONE
        assert node.trigger_cleanup() == DONE
        time.sleep(0.05)  # the node asks its driver every few milliseconds
        assert node.trigger_configure() == DONE
        assert node.trigger_activate() == DONE


def test_a_driver_that_is_closed_under_the_node_does_not_end_it(
    begin: Callable[[Any], tuple[RobotNode, Worker]],
) -> None:
    driver = Strict()
    node, worker = begin(driver)
    for _ in range(3):
        assert driver.asked.wait(PATIENCE_S)
        node.trigger_deactivate()
        node.trigger_cleanup()
        node.trigger_configure()
        node.trigger_activate()
        assert worker.works, worker.raised
    assert driver.calls == ["connect", *["hold", "close", "connect"] * 3]


def test_what_a_connected_driver_raises_ends_the_node(begin: Callable[[Any], tuple[RobotNode, Worker]]) -> None:
    driver = Strict()
    _, worker = begin(driver)
    driver.closed.set()  # not by the node
    worker.join()
    assert [str(error) for error in worker.raised] == ["The arm is not connected; call connect() first."]
