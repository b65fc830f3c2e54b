"""Time as a process sees it that must not blame others for its own pauses."""

from __future__ import annotations

import time
from collections.abc import Callable

MOST_S = 0.1  # counted between two calls


class ServedClock:
    """Seconds in which this process was served. Whatever came while it had no processor still stands in line when it
    goes on, so nobody's silence may be judged by that time. To be called more often than every 0.1 s."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last, self._served = clock, clock(), 0.0

    def __call__(self) -> float:
        now = self._clock()
        self._served += min(now - self._last, MOST_S)
        self._last = now
        return self._served
