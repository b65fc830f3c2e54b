"""What goes on in the graph, for people: the newest word of controller, reward, robot and operator."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pld_msgs.msg import EpisodeStatus, OperatorState, PolicyStep, RobotState, SuccessEstimate
from rclpy.node import Node

from pld_ros import topics

FRESH_S = 1.0  # what is older is not shown as if it were now
STATES: Mapping[int, str] = {
    EpisodeStatus.IDLE: "idle",
    EpisodeStatus.WAITING: "waiting",
    EpisodeStatus.RUNNING: "running",
    EpisodeStatus.PAUSED: "paused",
    EpisodeStatus.DONE: "done",
}
# An episode and the operator's state are said at changes and hold until the next; the others are streams.
_STREAMS = (PolicyStep, SuccessEstimate, RobotState)
_SOURCES: tuple[tuple[type, str, Any], ...] = (
    (PolicyStep, topics.STEP, topics.STATE),
    (SuccessEstimate, topics.SUCCESS, topics.STATE),
    (RobotState, topics.ROBOT_STATE, topics.STATE),
    (EpisodeStatus, topics.EPISODE, topics.EPISODES),
    (OperatorState, topics.OPERATOR_STATE, topics.LATCHED),
)
M = TypeVar("M")


class GraphWatch:
    """Listens with the given node. heard: called with each message; clock: monotonic seconds."""

    def __init__(
        self,
        node: Node,
        heard: Callable[[Any], None] = lambda message: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._newest: dict[type, tuple[float, Any]] = {}
        self._clock, self._heard = clock, heard
        for kind, topic, quality in _SOURCES:
            node.create_subscription(kind, topic, self.hear, quality)

    def hear(self, message: Any) -> None:
        self._newest[type(message)] = (self._clock(), message)
        self._heard(message)

    def newest(self, kind: type[M]) -> M | None:
        """The newest message of this type; of a stream only while it is fresh."""
        at, message = self._newest.get(kind, (float("-inf"), None))
        return message if kind not in _STREAMS or self._clock() - at < FRESH_S else None

    def summary(self) -> str:
        """One line: episode, tick, success probability, robot, and what holds everything up."""
        operator = self.newest(OperatorState)
        parts = [*self.warnings(), *self.episode(), self.robot()]
        if operator is not None:
            parts.append(f"starts {operator.starts}")
        return " | ".join(parts)

    def warnings(self) -> list[str]:
        """What an operator must not overlook."""
        operator = self.newest(OperatorState)
        if operator is None:
            return []
        flags = {"E-STOP": operator.estopped, "PAUSED": operator.paused, "HUMAN DRIVES": operator.taking_over}
        return [name for name, on in flags.items() if on]

    def episode(self) -> list[str]:
        status, step = self.newest(EpisodeStatus), self.newest(PolicyStep)
        if status is None:
            return ["no controller heard"]
        parts = [" ".join(filter(None, ("episode", status.episode_id, STATES.get(status.state, "?"))))]
        if status.state == EpisodeStatus.DONE:
            parts += [f"{status.ticks} ticks", outcome(status)]
        elif step is not None and step.episode_id == status.episode_id:
            parts.append(f"tick {step.tick}")
        if status.spec.mode:
            parts[0] += f" ({status.spec.mode})"
        if status.reason:
            parts.append(status.reason)
        estimate = self.newest(SuccessEstimate)
        if estimate is not None:
            parts.append(f"success {100 * estimate.probability:.0f} %" + (" (drift)" if estimate.drift else ""))
        return parts

    def robot(self) -> str:
        robot = self.newest(RobotState)
        if robot is None:
            return "robot not heard"
        return f"robot {robot.mode}" + (f": {robot.fault}" if robot.fault else "")


def outcome(status: EpisodeStatus) -> str:
    """How a finished episode ended."""
    if status.voided:
        return "void"
    return "success" if status.success else "failure"
