"""When a human drives the arm, and with which command. No rclpy here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from pld_ros.operating.front_ends.base import ACTION_DIM, GRIPPER, KEEP

REMOTE_LOST_S = 0.25  # silence of a front end in another process that ends its take-over


class TakeOver:
    """Turns what a front end wants into the stream of interventions.

    A take-over that was cut off (pause, e-stop) needs the human to let go once before the next one:
    a stick that is still pushed must not move the arm when an e-stop is released.
    """

    def __init__(self) -> None:
        self.active = False
        self._gripper = KEEP  # as last executed
        self._let_go_first = False

    def executed(self, gripper: float) -> None:
        """The gripper command of the last executed action, [-1, 1]."""
        self._gripper = gripper

    def step(self, motion: np.ndarray | None, blocked: bool) -> np.ndarray | None:
        """The command to send now, float32 ``[7]``, or None if no human drives.

        motion: as of FrontEnd.drive. The last command of a take-over does not move the arm.
        """
        if motion is None:
            self._let_go_first = False
        elif blocked:
            self._let_go_first = True
        was_active, self.active = self.active, motion is not None and not self._let_go_first
        if not self.active or motion is None:
            return self._with_gripper(np.zeros(ACTION_DIM, np.float32)) if was_active else None
        return self._with_gripper(np.clip(motion, -1.0, 1.0).astype(np.float32))

    def _with_gripper(self, command: np.ndarray) -> np.ndarray:
        if command[GRIPPER] != KEEP:
            self._gripper = float(command[GRIPPER])
        command[GRIPPER] = self._gripper
        return command


class RemoteDrive:
    """What a front end in another process wants; silence means that it has let go."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._motion: np.ndarray | None = None
        self._heard = float("-inf")

    def hear(self, action: Sequence[float]) -> None:
        """An action as of FrontEnd.drive; anything else than seven finite numbers means: let go."""
        motion = np.array(action, np.float32)
        self._motion = motion if motion.shape == (ACTION_DIM,) and np.isfinite(motion).all() else None
        self._heard = self._clock()

    def drive(self) -> np.ndarray | None:
        return self._motion if self._clock() - self._heard < REMOTE_LOST_S else None
