"""The cameras of a simulated twin: pictures of snapshots, drawn where and when they are needed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pld_ros.drivers.sim_arm import make_simulator


class SimCameras:
    """Draws the snapshots in a ``RobotState``, bit for bit what the task's environment delivers.

    OpenGL belongs to one thread: the one that renders first must be the only one that renders, and
    should also close.
    """

    def __init__(self, task: str) -> None:
        self._simulator = make_simulator(task)
        self.cameras = dict(self._simulator.observation_spec.cameras)  # {camera: (height, width, 3)}

    def render(self, snapshot: np.ndarray) -> Mapping[str, np.ndarray]:
        """``{camera: uint8 [height, width, 3]}`` of a snapshot, float64 ``[N]``."""
        return self._simulator.picture_of(snapshot)

    def close(self) -> None:
        self._simulator.close()
