"""How long each stage has run, over all processes that worked on it, pauses left out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from pld_core.storage import write_json


class StageClock:
    """Seconds per unfinished stage, kept in one small JSON file. One stage runs at a time.

    ``keep`` is called often and writes at most every ``interval`` seconds: that much is lost by kill -9.
    """

    def __init__(self, path: Path, interval: float = 5.0, now: Callable[[], float] = time.monotonic) -> None:
        self._path, self._interval, self._now = path, interval, now
        self._earlier = _read(path)
        self._running: str | None = None
        self._began = self._kept = now()

    def begin(self, stage: str) -> None:
        """Go on counting for ``stage``; the one that ran before is paused."""
        self._pause()
        self._running, self._began = stage, self._now()
        self.keep(force=True)

    def seconds(self, stage: str) -> float:
        """So far; 0 for a stage that never began or that was dropped."""
        running = self._now() - self._began if stage == self._running else 0.0
        return self._earlier.get(stage, 0.0) + running

    def drop(self, stage: str) -> None:
        """Forget a stage: it is finished, or starts over."""
        known = stage == self._running or stage in self._earlier
        self._pause()
        self._earlier.pop(stage, None)
        if known:
            self.keep(force=True)

    def keep(self, force: bool = False) -> None:
        """Write the state down; StorageError if the disk refuses."""
        if force or (self._running is not None and self._now() - self._kept >= self._interval):
            self._kept = self._now()
            names = {*self._earlier, *filter(None, [self._running])}
            write_json(self._path, {name: round(self.seconds(name), 3) for name in sorted(names)})

    def close(self) -> None:
        """Stop counting and write the state down."""
        self._pause()
        if self._earlier:
            self.keep(force=True)

    def _pause(self) -> None:
        if self._running is not None:
            self._earlier[self._running] = self.seconds(self._running)
            self._running = None


def _read(path: Path) -> dict[str, float]:
    """What an earlier process kept; a file that cannot be read costs the count, not the run."""
    try:
        return {str(name): float(seconds) for name, seconds in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
