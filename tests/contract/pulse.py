"""What a busy machine adds to any time that is measured on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

ATTEMPTS = 12
TICK_S = 0.05  # of all arms here


class Pulse:
    """How long this process was held up at worst while the context was open: ``worst_s``.

    beat_s: between two looks at the clock, which tells how short a time is seen.
    """

    def __init__(self, beat_s: float = 0.002) -> None:
        self.beat_s, self._ended = beat_s, threading.Event()
        self._held_up: list[tuple[float, float]] = []  # until when, and how long

    def __enter__(self) -> Pulse:
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def worst_s(self) -> float:
        return self.worst_since(0.0)

    def worst_since(self, when: float) -> float:
        """when: monotonic seconds."""
        return max((held_s for at, held_s in list(self._held_up) if at >= when), default=self.beat_s)

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(self.beat_s):
            now = time.monotonic()
            if now - last > 1.5 * self.beat_s:
                self._held_up.append((now, now - last))
            last = now


def attempts(pulse: Pulse, news: Callable[[], str] = lambda: "") -> Iterator[int]:
    """At what a busy machine may spoil. When all are, the test has failed; or cannot be done where this is."""
    began = time.monotonic()
    yield from range(ATTEMPTS)
    held_up_s = pulse.worst_since(began)
    if held_up_s > TICK_S:
        pytest.skip(f"this machine held an idle thread up for {held_up_s:.2f} s, and so an arm's 20 Hz")
    raise AssertionError(f"{ATTEMPTS} attempts were spoilt. {news()}")
