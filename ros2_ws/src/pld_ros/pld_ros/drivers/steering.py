"""How far a command may lead a real arm's target, and where that then is."""

from __future__ import annotations

from functools import partial

import numpy as np

from pld_core.control import SafetyLimits, rotations
from pld_ros.drivers.arm import Arm, Reading
from pld_ros.drivers.guard import Guard
from pld_ros.drivers.target import Pose, action_between, gone, moved, way

_ROUNDING = 1e-9


class Steering:
    """Leads a target by commands, within a station's limits, the arm's joints, and not too far ahead of the arm.

    max_lead_m, max_lead_rad: from what is measured to the target. ``limited``: how often what shortened a command.
    """

    def __init__(self, limits: SafetyLimits, arm: Arm, max_lead_m: float, max_lead_rad: float) -> None:
        self._spec, self._guard, self._arm = limits.action_spec, Guard(limits), arm
        self._max_lead = max_lead_m, max_lead_rad
        self.limited = self._guard.limited

    def led(self, wanted: np.ndarray, target: Pose, reading: Reading, now: float) -> tuple[Pose, np.ndarray]:
        """The new target, and the command that leads there from the old one, float32 ``[7]``.

        wanted: the command, within [-1, 1]; now: monotonic seconds. A target that is too far ahead of the arm, because
        something has pushed the arm away, comes nearer: the answer is that, and may then be larger than any command.
        """
        rotvec = rotations.rotvec_between(target[1], rotations.STRAIGHT_DOWN)
        reachable = partial(self._arm.reachable, reading.joint_positions)
        action = self._guard.admit(wanted, target[0], rotvec, now, reachable)
        goal = moved(self._spec, action, target)
        ahead = way(reading.pose, goal)
        lead = self._shortened(ahead)
        if lead is ahead:
            return goal, action
        self.limited["lead"] += 1
        end = gone(reading.pose, lead)
        return end, action_between(self._spec, target, end, action[6])

    def _shortened(self, lead: np.ndarray) -> np.ndarray:
        """A lead ``[6]`` [m, rad] of an allowed length; itself where it has that."""
        lengths = np.array([np.linalg.norm(lead[:3]), np.linalg.norm(lead[3:])])
        if (lengths <= np.array(self._max_lead) * (1.0 + _ROUNDING)).all():
            return lead
        return lead * np.repeat(np.minimum(1.0, np.array(self._max_lead) / np.maximum(lengths, _ROUNDING)), 3)
