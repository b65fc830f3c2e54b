"""The operator node among stand-ins of robot, controller and replay logger, spun on a thread of their own."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import rclpy
from pld_msgs.msg import DeltaCommand, EpisodeStatus, Health, OperatorState, PolicyStep, RobotState
from pld_msgs.srv import EStop, Label, Reset
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from pld_ros import topics
from pld_ros.nodes.operator import OperatorNode

with warnings.catch_warnings():  # of lark, which rclpy imports with the first node
    warnings.simplefilter("ignore", DeprecationWarning)
    import rosidl_generator_py  # noqa: F401

PATIENCE_S = 30.0  # a test that waits longer has failed


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError(f"not within {PATIENCE_S} s: {what}")


class Others(Node):
    """Keeps what it was asked for; ``accepts`` is what controller and replay logger answer to a label."""

    def __init__(self) -> None:
        super().__init__("others")
        self.asked: list[tuple[str, Any]] = []
        self.accepts = {topics.LABEL: True, topics.LATE_LABEL: True}
        self.states: list[OperatorState] = []
        self.interventions: list[DeltaCommand] = []
        self.episode = self.create_publisher(EpisodeStatus, topics.EPISODE, topics.EPISODES)
        self.robot = self.create_publisher(RobotState, topics.ROBOT_STATE, topics.STATE)
        self.step = self.create_publisher(PolicyStep, topics.STEP, topics.RECORD)
        self.health = self.create_publisher(Health, topics.HEALTH, topics.HEALTHS)
        self.create_subscription(OperatorState, topics.OPERATOR_STATE, self.states.append, topics.LATCHED)
        self.create_subscription(DeltaCommand, topics.INTERVENTION, self.interventions.append, topics.LATCHED)

    def serve(self, *names: str) -> None:
        kinds = {
            topics.ROBOT_RESET: Reset, topics.ROBOT_ESTOP: EStop, topics.LABEL: Label, topics.LATE_LABEL: Label,
            topics.OPERATOR_ESTOP: EStop,
        }  # fmt: skip
        for name in names:
            self.create_service(kinds[name], name, lambda request, response, n=name: self._answer(n, request, response))

    def asked_of(self, name: str) -> list[Any]:
        return [request for asked, request in self.asked if asked == name]

    def _answer(self, name: str, request: Any, response: Any) -> Any:
        self.asked.append((name, request))
        response.ok = self.accepts.get(name, True)
        response.message = "" if response.ok else "not this one"
        if name == topics.ROBOT_RESET:
            response.reset = len(self.asked_of(name))
        return response


class Graph:
    """serving: these services answer; frozen: these are there and never do; args: ROS arguments of the nodes."""

    def __init__(
        self,
        serving: tuple[str, ...],
        frozen: tuple[str, ...] = (),
        args: tuple[str, ...] = (),
        operator: bool = True,
    ) -> None:
        rclpy.init(args=["--ros-args", *args] if args else [])
        self.others, self.frozen = Others(), Others()
        self.others.serve(*serving)
        self.frozen.serve(*frozen)  # nobody spins it
        self.asker = Node("asker")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.others)
        self._executor.add_node(self.asker)
        self._nodes = [self.others, self.frozen, self.asker]
        if operator:
            self.operator = OperatorNode()
            self._nodes.append(self.operator)
            self._executor.add_node(self.operator)
        self._ended = False
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()
        if operator:
            self._wait_for_discovery()

    def _wait_for_discovery(self) -> None:
        others = self.others
        publishers = (others.episode, others.robot, others.step, others.health)
        wait_until(lambda: all(p.get_subscription_count() for p in publishers), "the operator node listens")
        wait_until(lambda: others.count_publishers(topics.INTERVENTION), "the operator node is seen")

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """The answer of a service of the operator node."""
        future = self.call_async(kind, name, request)
        return wait_until(future.done, f"{name} answers") and future.result()

    def call_async(self, kind: Any, name: str, request: Any) -> Any:
        client = self.asker.create_client(kind, name)
        assert client.wait_for_service(PATIENCE_S)
        return client.call_async(request)

    def tell_episode(self, state: int, episode_id: str = "e-1") -> None:
        """The controller's word, and that the operator node has heard it."""
        self.others.episode.publish(EpisodeStatus(state=state, episode_id=episode_id))
        known = self.operator
        wait_until(lambda: (known.episode.state, known.episode.episode_id) == (state, episode_id), "episode heard")

    def tell_robot(self, mode: str) -> None:
        self.others.robot.publish(RobotState(mode=mode))
        wait_until(lambda: self.operator.robot_mode == mode, "robot heard")

    def listened(self) -> None:
        """The operator node has heard the arm for as long as it listens before it speaks."""
        self.tell_robot("holding")
        wait_until(lambda: self.operator.heard_the_arm, "it has listened")

    def keep_telling_robot(self, mode: str) -> Callable[[], bool]:
        """A condition that tells it once each time that it is asked, until the operator node has heard it."""

        def heard() -> bool:
            self.others.robot.publish(RobotState(mode=mode))
            return self.operator.robot_mode == mode

        return heard

    def newest_state(self) -> OperatorState:
        return self.others.states[-1] if self.others.states else OperatorState()

    def state(self, condition: Callable[[OperatorState], bool], what: str) -> OperatorState:
        """The operator's newest state, once it is as wanted."""
        wait_until(lambda: self.others.states and condition(self.others.states[-1]), what)
        return self.others.states[-1]

    def _spin(self) -> None:
        # An executor must not be shut down under the hands of the thread that spins it.
        while not self._ended:
            self._executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        self._ended = True
        self._thread.join(PATIENCE_S)
        self._executor.shutdown()
        for node in self._nodes:
            if isinstance(node, OperatorNode):
                node.close()
            node.destroy_node()
        rclpy.try_shutdown()
