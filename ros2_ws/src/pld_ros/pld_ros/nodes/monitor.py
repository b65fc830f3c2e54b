"""Shows what goes on: markers for RViz."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from pld_msgs.msg import EpisodeStatus, PolicyStep, RobotState, SuccessEstimate
from rclpy.clock import Clock, ClockType
from visualization_msgs.msg import MarkerArray

from pld_core.errors import ConfigError
from pld_core.types import RESIDUAL_TICK
from pld_ros import topics
from pld_ros.markers import Scene, draw
from pld_ros.node import PldNode, run_node
from pld_ros.operating.graph_watch import GraphWatch

HIGHEST_RATE_HZ = 20.0
TRAIL_LENGTH = 100
_STEP_M = 5e-4  # tool positions closer than this are one


class Monitor(PldNode):
    """Draws only while somebody looks."""

    def __init__(self) -> None:
        super().__init__("monitor")
        rate_hz = self.setting("rate_hz", 10.0)
        if not 0.0 < rate_hz <= HIGHEST_RATE_HZ:
            raise ConfigError(
                f"rate_hz is {rate_hz}; give more than 0 and at most {HIGHEST_RATE_HZ:g} pictures a second."
            )
        self._trail: deque[np.ndarray] = deque(maxlen=TRAIL_LENGTH)
        self._resets = -1
        self._watch = GraphWatch(self, self._heard)
        self._markers = self.create_publisher(MarkerArray, topics.MARKERS, topics.STATE)
        self.create_timer(1.0 / rate_hz, self._show, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.set_ready()

    def _heard(self, message: Any) -> None:
        if not isinstance(message, RobotState):
            return
        if message.resets != self._resets:
            self._trail.clear()
            self._resets = message.resets
        position = _position(message)
        if not self._trail or np.linalg.norm(position - self._trail[-1]) > _STEP_M:
            self._trail.append(position)

    def _show(self) -> None:
        if self._markers.get_subscription_count():
            self._markers.publish(draw(self.scene()))
            self.rates.count("pictures")

    def scene(self) -> Scene:
        """What is known now."""
        robot, estimate = self._watch.newest(RobotState), self._watch.newest(SuccessEstimate)
        status, step = self._watch.newest(EpisodeStatus), self._watch.newest(PolicyStep)
        return Scene(
            frame=self.station.frame,
            translation_m=self.station.translation_m,
            workspace=self.station.workspace_m,
            tool=None if robot is None else _position(robot),
            trail=tuple(self._trail) if robot is not None else (),
            step=step,
            xi=_xi(status, step),
            probability=None if estimate is None else float(estimate.probability),
            status=(*self._watch.episode(), self._watch.robot()),
            alarms=self._watch.warnings(),
        )


def _position(robot: RobotState) -> np.ndarray:
    position = robot.tool_pose.position
    return np.array([position.x, position.y, position.z])


def _xi(status: EpisodeStatus | None, step: PolicyStep | None) -> float:
    """Scale of this step's residual; 0 where the base or a human acted alone."""
    if status is None or step is None or step.episode_id != status.episode_id or step.source != RESIDUAL_TICK:
        return 0.0
    return float(status.spec.xi)


def main(args: Sequence[str] | None = None) -> int:
    return run_node(Monitor, args)


if __name__ == "__main__":
    sys.exit(main())
