"""Hears what a graph says of its episodes, and asks its services."""

from __future__ import annotations

import time
import warnings
from collections import deque
from dataclasses import dataclass
from typing import Any

import rclpy
from pld_msgs.action import RunEpisode
from pld_msgs.msg import EpisodeStatus, PolicyStep, RobotState
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from pld_ros import topics
from pld_ros.control.services import call
from pld_ros.launching.process import NAMESPACE
from pld_ros.node import HealthWatch
from pld_ros.spinner import Spinner

with warnings.catch_warnings():  # of lark, which rclpy imports with the first node
    warnings.simplefilter("ignore", DeprecationWarning)
    import rosidl_generator_py  # noqa: F401

PATIENCE_S = 120.0  # a test that waits longer has failed; only a machine that is very busy comes near it
ANSWER_S = 3.0


@dataclass(frozen=True)
class Heard:
    """A message and when it came, in monotonic seconds of this process."""

    at: float
    message: Any


class Ear:
    """Hears what an episode says of itself, and asks services."""

    def __init__(self) -> None:
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node("ear", namespace=NAMESPACE, context=self._context)
        self.statuses: list[Heard] = []
        self.steps: list[Heard] = []
        self.states: deque[Heard] = deque(maxlen=4000)
        self.health = HealthWatch(self.node)
        self._listen(EpisodeStatus, topics.EPISODE, topics.EPISODES, self.statuses)
        self._listen(PolicyStep, topics.STEP, topics.RECORD, self.steps)
        self._listen(RobotState, topics.ROBOT_STATE, topics.STATE, self.states)
        self._clients: dict[str, Any] = {}
        self._orders = ActionClient(self.node, RunEpisode, topics.RUN_EPISODE)
        self._spinner = Spinner(self.node)

    def _listen(self, kind: type, topic: str, qos: Any, into: Any) -> None:
        self.node.create_subscription(kind, topic, lambda m: into.append(Heard(time.monotonic(), m)), qos)

    def ask(self, kind: Any, name: str, request: Any) -> Any:
        client = self._clients.get(name) or self._clients.setdefault(name, self.node.create_client(kind, name))
        assert client.wait_for_service(PATIENCE_S), f"nobody serves {name}"
        for _ in range(10):  # DDS may lose the answer to a client that the server has just met
            answer = call(client, request, ANSWER_S)
            if answer is not None:
                return answer
        raise AssertionError(f"{name} did not answer")

    def send(self, goal: RunEpisode.Goal) -> Any:
        """A future of the goal's handle."""
        return self._spinner.call(lambda: self._orders.send_goal_async(goal)).result(PATIENCE_S)

    def close(self) -> None:
        self._spinner.close()
        self._orders.destroy()
        for client in self._clients.values():
            self.node.destroy_client(client)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)
