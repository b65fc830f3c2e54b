"""System time for what was measured by the monotonic clock."""

from __future__ import annotations

_SET_BACK_NS = 1_000_000  # a stamp that is so far ahead of the clock was not made by it


def stamp_of(age_s: float, now_ns: int, last_ns: int) -> int:
    """The stamp of what is ``age_s`` seconds old; now_ns: ROS system time; last_ns: the stamp before this one.

    Ages come from the monotonic clock, so that setting the system clock makes nothing old or new. Stamps increase;
    only a clock that was set back takes them back with it, at once, as it does with those of all other sources: stamps
    that waited for it would pair what is seen now with what was measured long before.
    """
    stamp_ns = now_ns - max(0, round(1e9 * age_s))
    return last_ns + 1 if stamp_ns <= last_ns <= now_ns + _SET_BACK_NS else stamp_ns
