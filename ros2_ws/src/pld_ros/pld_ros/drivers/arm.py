"""What differs from one vendor's arm to another's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Pose = tuple[np.ndarray, np.ndarray]  # of the tool centre in the base frame: [3] m, and [4] w, x, y, z


@dataclass(frozen=True)
class Reading:
    """What an arm measured last.

    heard_at: when that arrived, monotonic seconds; joint_positions: float64 ``[J]`` [rad]; position ``[3]`` [m] and
    quaternion ``[4]`` (w, x, y, z): the tool centre in the base frame; fault: what the arm itself reports, empty if
    nothing.
    """

    heard_at: float
    joint_positions: np.ndarray
    position: np.ndarray
    quaternion: np.ndarray
    gripper_width_m: float
    fault: str = ""

    @property
    def pose(self) -> Pose:
        return self.position, self.quaternion


class Arm(Protocol):
    """A vendor's library, reduced to what ``RealArm`` needs of it.

    No method but ``connect``, ``go_home``, ``recover`` and ``close`` may block for longer than a few milliseconds,
    whatever has become of the arm; all may raise RobotError, and nothing else.
    """

    @property
    def joint_names(self) -> tuple[str, ...]: ...

    def connect(self) -> None:
        """Raises RobotUnavailableError where no arm answers. Nothing moves."""
        ...

    def read(self) -> Reading:
        """The newest measurement, however old."""
        ...

    def tool_at(self, joint_positions: np.ndarray) -> np.ndarray:
        """The tool centre ``[3]`` [m] in the base frame for joints ``[J]`` [rad], by the arm's own model."""
        ...

    def reachable(self, joint_positions: np.ndarray, target: Pose, step: np.ndarray) -> float:
        """The share (0 to 1) of a step that keeps all joints clear of their ends.

        target: where the tool centre was told to go before, to which these joints are still on their way; step:
        ``[6]`` metres and rotation vector [rad] in the base frame, from there on.
        """
        ...

    def follow(self, position: np.ndarray, quaternion: np.ndarray) -> None:
        """Go towards this pose of the tool centre; replaces what was followed before."""
        ...

    def grip(self, opened: bool) -> None:
        """Open or close the gripper."""
        ...

    def halt(self) -> None:
        """Come to rest and stay there, with the grip as it is."""
        ...

    def recover(self) -> None:
        """Leave a fault, connecting anew where that takes it. Nothing moves."""
        ...

    def go_home(self, joint_positions: np.ndarray, is_ended: Callable[[], bool]) -> None:
        """Go to these joints ``[J]`` [rad] and return once there; halt as soon as ``is_ended`` says so."""
        ...

    def close(self) -> None: ...
