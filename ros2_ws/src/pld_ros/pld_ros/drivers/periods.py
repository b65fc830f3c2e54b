"""The rhythm of a simulated arm that runs by the clock."""

from __future__ import annotations

from collections.abc import Callable

from pld_ros.drivers.stamps import stamp_of


class Periods:
    """Periods of equal length: absolute deadlines, equidistant stamps, no catching up.

    Whoever comes more than one period late finds one new period, not several: it begins at that
    moment and takes its stamp anew. Stamps increase; only a system clock that was set back takes them back with it.
    clock: monotonic seconds; time_ns: ROS system time in nanoseconds.
    """

    def __init__(self, rate_hz: float, clock: Callable[[], float], time_ns: Callable[[], int]) -> None:
        self._period_s, self._period_ns = 1.0 / rate_hz, round(1e9 / rate_hz)
        self._clock, self._time_ns = clock, time_ns
        self.skipped = 0  # periods that nobody came for
        self.start()

    def start(self) -> None:
        """Begin the first period now."""
        self._begin(self._time_ns())

    @property
    def stamp_ns(self) -> int:
        """When the present period began."""
        return self._first_ns + self._index * self._period_ns

    def remaining_s(self) -> float:
        """Until the present period is over; negative when it is."""
        return self._first_s + (self._index + 1) * self._period_s - self._clock()

    def turn(self) -> bool:
        """Whether the present period is over; if so, the next one begins."""
        late_s = -self.remaining_s()
        if late_s < 0:
            return False
        if late_s < self._period_s:
            self._index += 1
            stamp_ns = self._time_ns() - round(1e9 * late_s)
            if abs(stamp_ns - self.stamp_ns) > self._period_ns:  # the system clock was set
                self._begin(stamp_ns)
        else:
            self.skipped += int(late_s / self._period_s)
            self._begin(stamp_of(0.0, self._time_ns(), self.stamp_ns))
        return True

    def _begin(self, stamp_ns: int) -> None:
        self._first_s, self._first_ns, self._index = self._clock(), stamp_ns, 0
