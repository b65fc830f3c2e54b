"""A node that is none, for the controller's eyes and hands: messages are handed in, commands and calls caught."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from pld_msgs.msg import DeltaCommand, OperatorState, RobotState, SuccessEstimate
from pld_msgs.srv import Reset

from pld_ros import topics
from pld_ros.control.pace import Pace
from pld_ros.control.ros_body import RosBody
from pld_ros.convert import floats, time_msg
from pld_ros.node import Rates

PERIOD_NS = 50_000_000


class Node:
    """Answers what RosBody asks of a node; a station without cameras, in lockstep."""

    def __init__(self) -> None:
        self.station = SimpleNamespace(cameras={}, is_simulated=True, frame="base")
        self.task_config = SimpleNamespace(instruction="go")
        self.simulated_time, self.period_s = True, PERIOD_NS / 1e9
        self.rates, self.inputs = Rates(), []
        self.heard: dict[str, list[Any]] = {}
        self.commands: list[DeltaCommand] = []
        self.on_reset: Any = lambda request: Reset.Response(ok=False, message="nobody is here")

    def setting(self, name: str, default: Any) -> Any:
        return 60_000.0 if name == "max_age_ms" else default  # nothing here grows old by itself

    def create_subscription(self, kind: Any, topic: str, callback: Any, qos: Any) -> None:
        self.heard.setdefault(topic, []).append(callback)

    def create_publisher(self, kind: Any, topic: str, qos: Any) -> Any:
        return SimpleNamespace(publish=self.commands.append)

    def create_client(self, kind: Any, topic: str) -> Any:
        def call_async(request: Any) -> Any:
            answer = self.on_reset(request)
            return SimpleNamespace(add_done_callback=lambda done: done(None), result=lambda: answer)

        return SimpleNamespace(wait_for_service=lambda timeout_sec: True, call_async=call_async)

    def hear(self, topic: str, message: Any) -> None:
        for callback in self.heard[topic]:
            callback(message)


class Robot:
    """A robot node that was just started; its time goes on where it is told to."""

    def __init__(self, node: Node, tick: int) -> None:
        self.node, self.tick, self.resets = node, tick, 0
        self.extra: dict[str, Any] = {}  # other fields of its states
        node.on_reset = self.reset
        self.say()

    def say(self) -> int:
        self.tick += 1
        state = RobotState(**{"resets": self.resets, "proprio": floats(np.full(3, self.tick)), **self.extra})
        state.header.stamp = time_msg(self.tick * PERIOD_NS)
        self.node.hear(topics.ROBOT_STATE, state)
        return self.tick

    def reset(self, request: Reset.Request) -> Reset.Response:
        number = self.resets + 1
        self.say()  # a state from before the reset is still on its way

        def finish() -> None:
            self.resets = number
            self.say()

        threading.Timer(0.02, finish).start()
        return Reset.Response(ok=True, reset=number)


class Now:
    """Monotonic seconds that pass when somebody sleeps, or a test says so."""

    def __init__(self) -> None:
        self.s = time.monotonic()

    def __call__(self) -> float:
        return self.s

    def pass_s(self, seconds: float) -> None:
        self.s += seconds


def estimate(tick: int, success: bool) -> SuccessEstimate:
    message = SuccessEstimate(success=success, reward=float(success))
    message.header.stamp = time_msg(tick * PERIOD_NS)
    return message


def begun(node: Node, body: RosBody) -> tuple[Now, Robot]:
    """A real station's episode, at its first tick."""
    node.simulated_time, node.station.is_simulated = False, False
    now, robot = Now(), Robot(node, tick=time.time_ns() // PERIOD_NS - 40)  # of the future is none
    body.reset(0)
    body.pace = Pace(node.period_s, now, now.pass_s)
    body.pace.start(now())
    return now, robot


def pause(node: Node, body: RosBody, meanwhile: Callable[[], Any]) -> None:
    """The operator pauses; something happens, and it goes on."""

    def on_pause(paused: bool) -> None:
        if paused:
            meanwhile()
            node.hear(topics.OPERATOR_STATE, OperatorState())

    node.hear(topics.OPERATOR_STATE, OperatorState(paused=True))
    body.on_pause = on_pause


def seen(body: RosBody, robot: Robot) -> Any:
    robot.say()
    stamps = body.buffer.newest(-1)
    assert stamps is not None
    return body._observation(stamps)
