"""A robot node before an arm that moves on until it is told to hold. No DDS traffic: callbacks are called."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from pld_msgs.msg import DeltaCommand
from pld_msgs.srv import EStop

from pld_core.errors import RobotError
from pld_core.stations import load_robot
from pld_core.types import RobotState
from pld_ros.convert import time_msg
from pld_ros.nodes import robot as robot_module
from pld_ros.nodes.robot import RobotNode

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


@contextlib.contextmanager
def started(arm: Arm, monkeypatch: pytest.MonkeyPatch) -> Iterator[RobotNode]:
    """An active robot node before ``arm``."""
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
