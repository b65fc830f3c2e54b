"""A steady rhythm on the monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable

MISSED_S = 0.010  # a command that comes later than this after its tick was due counts as missed


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
        self.ticks = self.missed = self.skipped = 0
        self.worst_late_s = 0.0

    def start(self, at: float) -> None:
        """The present tick is due at this time; the others follow it."""
        self._due = at

    def wait(self) -> None:
        """Sleep until the next tick is due."""
        self._due += self._period_s
        behind = self._clock() - self._due
        if behind >= self._period_s:
            skipped = int(behind / self._period_s)
            self.skipped += skipped
            self._due += skipped * self._period_s
        if behind < 0:
            self._sleep(-behind)

    def done(self) -> None:
        """The present tick's command is out."""
        late_s = self._clock() - self._due
        self.ticks += 1
        self.missed += late_s > MISSED_S
        self.worst_late_s = max(self.worst_late_s, late_s)
