"""Puts together what was seen at one time: proprioception and a frame of each camera. No rclpy here."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence

import numpy as np

from pld_core.errors import ConfigError
from pld_core.types import Observation

PROPRIO = "proprio"
FUTURE_MS = 50.0  # how far ahead of a reader's clock a stamp may be; more, and a clock was set
_DEPTH = 64  # samples kept of each source: three seconds at 20 Hz
_BACK_NS = 1_000_000_000  # a stamp so far before the newest is of a clock that began anew


class _Source:
    def __init__(self) -> None:
        self.stamps: list[int] = []
        self.values: dict[int, np.ndarray] = {}
        self.received = 0
        self.received_at = float("-inf")

    def put(self, stamp: int, value: np.ndarray, now: float) -> None:
        if self.stamps and stamp < self.stamps[-1] - _BACK_NS:
            self.stamps, self.values = [], {}
        if stamp in self.values:  # a source that repeats itself is as good as silent
            return
        self.received += 1
        self.received_at = now
        insort(self.stamps, stamp)
        self.values[stamp] = value
        if len(self.stamps) > _DEPTH:
            del self.values[self.stamps.pop(0)]

    def at_or_before(self, stamp: int) -> int | None:
        index = bisect_right(self.stamps, stamp)
        return self.stamps[index - 1] if index else None

    def nearest(self, stamp: int) -> int:
        index = bisect_right(self.stamps, stamp)
        around = self.stamps[max(0, index - 1) : index + 1]
        return min(around, key=lambda candidate: abs(candidate - stamp))


class ObservationBuffer:
    """The last samples of each source, and the observations that they make; safe to use from any thread.

    cameras: their names; max_skew_ms: how far apart in time the sources of one observation may be.
    An observation's time is that of the source that lags most; the others give their sample nearest to it.
    """

    def __init__(self, cameras: Sequence[str], max_skew_ms: float = 50.0) -> None:
        if max_skew_ms < 0:
            raise ConfigError(f"max_skew_ms is {max_skew_ms}; give 0 or more milliseconds.")
        self.sources = (PROPRIO, *cameras)
        self._max_skew_ns = int(max_skew_ms * 1e6)
        self._data = {source: _Source() for source in self.sources}
        self._arrived = threading.Condition()

    def put(self, source: str, stamp_ns: int, value: np.ndarray) -> None:
        with self._arrived:
            self._data[source].put(stamp_ns, value, time.monotonic())
            self._arrived.notify_all()

    def received(self, source: str) -> int:
        """Different samples that came so far."""
        return self._data[source].received

    def silent_s(self, source: str) -> float:
        """Seconds on the monotonic clock since anything new came; infinite before the first."""
        return time.monotonic() - self._data[source].received_at

    def newest(self, after: int = -1) -> dict[str, int] | None:
        """Stamps ``{source: ns}`` of the newest complete observation with all of them > ``after``."""
        with self._arrived:
            return self._newest(after)

    def wait_newer(self, after: int, timeout_s: float) -> dict[str, int] | None:
        """As ``newest``, but waits for one."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._newest(after) is not None, timeout_s)
            return self._newest(after)

    def wait_for(self, stamps: Mapping[str, int], timeout_s: float) -> dict[str, int] | None:
        """Stamps of the newest data at or before ``stamps``; waits a moment for exactly those."""
        with self._arrived:
            self._arrived.wait_for(lambda: all(s in self._data[k].values for k, s in stamps.items()), timeout_s)
            found = {source: self._data[source].at_or_before(stamp) for source, stamp in stamps.items()}
            return {k: s for k, s in found.items() if s is not None} if None not in found.values() else None

    def observation(self, stamps: Mapping[str, int], instruction: str) -> Observation:
        """The data of these stamps, as given by one of the methods above."""
        with self._arrived:
            values = {source: self._data[source].values[stamp] for source, stamp in stamps.items()}
        proprio = values.pop(PROPRIO)
        return Observation(values, proprio, instruction, dict(stamps))

    def _newest(self, after: int) -> dict[str, int] | None:
        if any(not data.stamps for data in self._data.values()):
            return None
        reference = min(data.stamps[-1] for data in self._data.values())
        stamps = {source: data.nearest(reference) for source, data in self._data.items()}
        if min(stamps.values()) <= after or max(stamps.values()) - min(stamps.values()) > self._max_skew_ns:
            return None
        return stamps
