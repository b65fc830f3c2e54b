"""A steady rhythm on the monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable

MISSED_S = 0.010  # a tick that begins later than this after it was due counts as missed


class Pace:
    """Absolute deadlines, one a period. After an overrun the next one is skipped to, never a burst."""

    def __init__(
        self,
        period_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._period_s, self._clock, self._sleep = period_s, clock, sleep
        self._due = clock()
        self.ticks = self.missed = self.skipped = 0  # missed: skipped ones, and those that began too late
        self.late_s = self.worst_late_s = 0.0
        self.skipped_now = 0  # before the present tick
        self.late_commands = 0  # out more than MISSED_S after their tick was due: what the tick waited for included

    def start(self, at: float) -> None:
        """The present tick is due at this time; the others follow it."""
        self._due, self.late_s, self.skipped_now = at, 0.0, 0

    def left_s(self, share: float) -> float:
        """Seconds until this share of the present tick's period has passed; 0 if it has."""
        return max(0.0, self._due + share * self._period_s - self._clock())

    def wait(self) -> None:
        """Sleep until the next tick is due."""
        self._due, self.skipped_now = self._due + self._period_s, 0
        self._skip()
        if (early_s := self._due - self._clock()) > 0:
            self._sleep(early_s)
            self._skip()  # whoever gets no processor in his sleep wakes up late
        self.late_s = self._clock() - self._due
        self.ticks += 1
        self.skipped += self.skipped_now
        self.missed += self.skipped_now + (self.late_s > MISSED_S)
        self.worst_late_s = max(self.worst_late_s, self.late_s + self.skipped_now * self._period_s)

    @property
    def over(self) -> int:
        """Ticks that should have been by now and were not: those before the present one, and those since."""
        return self.skipped_now + self._behind()

    def _skip(self) -> None:
        behind = self._behind()
        self.skipped_now += behind
        self._due += behind * self._period_s

    def _behind(self) -> int:
        return int(max(self._clock() - self._due, 0.0) / self._period_s)

    def done(self) -> None:
        """The present tick's command is out."""
        self.late_commands += self._clock() - self._due > MISSED_S
