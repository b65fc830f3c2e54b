"""How far a command may lead a real arm's target, and where that then is."""

from __future__ import annotations

import numpy as np

from pld_core.control import SafetyLimits, boxes, rotations
from pld_ros.drivers.arm import Arm, Pose, Reading
from pld_ros.drivers.guard import Guard
from pld_ros.drivers.target import action_between, gone, moved, way

_ROUNDING = 1e-9
_SKIN_M = 1e-6  # of boxes, for rounding: what slides along a face is not held up by it
_HALVINGS = 12  # of a step towards what lies behind a corner: to a hundredth of a millimetre


class Steering:
    """Leads a target by commands, within a station's limits, the arm's joints, and not too far ahead of the arm.

    max_lead_m, max_lead_rad: from what is measured to the target. ``limited``: how often what shortened a command.
    What is kept out of boxes is not only the target, but also the straight way to it: an arm that lags cuts corners.
    """

    def __init__(self, limits: SafetyLimits, arm: Arm, max_lead_m: float, max_lead_rad: float) -> None:
        self._spec, self._guard, self._arm = limits.action_spec, Guard(limits), arm
        self._max_lead = max_lead_m, max_lead_rad
        self._keep_out = boxes.shrunk(limits.keep_out, _SKIN_M)
        self.limited = self._guard.limited

    def led(self, wanted: np.ndarray, target: Pose, reading: Reading, now: float) -> tuple[Pose, np.ndarray]:
        """The new target, and the command that leads there from the old one, float32 ``[7]``.

        wanted: the command, within [-1, 1]; now: monotonic seconds. A target that is too far ahead of the arm, because
        something has pushed the arm away, comes nearer first: the answer holds that, and may exceed any command.
        """
        start = self._near(target, reading)
        action = self._guard.admit(wanted, start[0], rotations.rotvec_between(start[1], rotations.STRAIGHT_DOWN), now)
        goal = moved(self._spec, action, start)
        ahead = way(reading.pose, goal)
        lead = self._shortened(ahead)
        self.limited["lead"] += start is not target or lead is not ahead
        lead = self._within_joints(lead, start, reading)
        lead = self._in_sight(lead, way(reading.pose, start), reading)
        if start is target and lead is ahead:
            return goal, action
        end = gone(reading.pose, lead)
        return end, action_between(self._spec, target, end, action[6])

    def _near(self, target: Pose, reading: Reading) -> Pose:
        """The target, or what of the way there it may be ahead of the arm."""
        ahead = way(reading.pose, target)
        lead = self._shortened(ahead)
        share = boxes.share_outside(reading.position, lead[:3], self._keep_out)
        if share < 1.0:
            lead = lead * np.repeat([share, 1.0], 3)
        return target if lead is ahead else gone(reading.pose, lead)

    def _within_joints(self, lead: np.ndarray, start: Pose, reading: Reading) -> np.ndarray:
        """The lead, or as much of the step to it as the joints allow: the arm will go all of the way, not just that."""
        before = way(reading.pose, start)
        share = self._arm.reachable(reading.joint_positions, start, lead - before)
        if share >= 1.0:
            return lead
        self.limited["joints"] += 1
        return before + share * (lead - before)

    def _in_sight(self, lead: np.ndarray, before: np.ndarray, reading: Reading) -> np.ndarray:
        """The lead, or as much of the step to it as can be seen from where the arm is, past the boxes."""

        def is_seen(share: float) -> bool:
            ahead = (before + share * (lead - before))[:3]
            return boxes.share_outside(reading.position, ahead, self._keep_out) >= 1.0

        if is_seen(1.0):
            return lead
        self.limited["keep_out"] += 1
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if is_seen(middle) else (low, middle)
        return before + low * (lead - before)

    def _shortened(self, lead: np.ndarray) -> np.ndarray:
        """A lead ``[6]`` [m, rad] of an allowed length; itself where it has that."""
        lengths = np.array([np.linalg.norm(lead[:3]), np.linalg.norm(lead[3:])])
        if (lengths <= np.array(self._max_lead) * (1.0 + _ROUNDING)).all():
            return lead
        return lead * np.repeat(np.minimum(1.0, np.array(self._max_lead) / np.maximum(lengths, _ROUNDING)), 3)
