"""What every command passes on its way to an arm, real or simulated."""

from __future__ import annotations

from collections import Counter

import numpy as np

from pld_core.control import SafetyLimits


class Guard:
    """A station's limits, and how often each of them shortened a command (``limited``).

    by_the_clock: also limit the rate. One whole command passes per period, and one more may be made up for: whoever
    sends faster would otherwise drive faster than the station allows.
    """

    def __init__(self, limits: SafetyLimits, by_the_clock: bool = True) -> None:
        self._limits, self._by_the_clock = limits, by_the_clock
        self._saved, self._at = 2.0, float("-inf")  # commands
        self.limited: Counter[str] = Counter()

    def admit(self, wanted: np.ndarray, position: np.ndarray, rotvec: np.ndarray, now: float) -> np.ndarray:
        """The admissible part of a command, float32 ``[7]``.

        position ``[3]`` [m] and rotvec ``[3]`` [rad, from straight down]: where the command starts, in the base
        frame; now: monotonic seconds. Raises as ``SafetyLimits.apply``.
        """
        action = self._of_the_rate(wanted, now)
        slow = self._limits.slowed(action)
        self.limited["speed"] += slow is not action
        action = slow
        within = self._limits.apply(action, position, rotvec)
        self.limited["workspace"] += not np.array_equal(within, action)
        return within

    def _of_the_rate(self, action: np.ndarray, now: float) -> np.ndarray:
        """The part of the command given now that the rate allows."""
        if not self._by_the_clock:
            return action
        self._saved = min(2.0, self._saved + (now - self._at) * self._limits.action_spec.rate_hz)
        self._at = now
        share = min(1.0, self._saved)
        self._saved -= share
        if share >= 1.0:
            return action
        self.limited["rate"] += 1
        return np.append(np.float32(share) * action[:6], action[6]).astype(np.float32)
