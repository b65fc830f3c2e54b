"""What a busy machine adds to any time that is measured on it."""

from __future__ import annotations

import threading
import time

BEAT_S = 0.002


class Pulse:
    """How long this process was held up at worst while the context was open: ``worst_s``."""

    def __enter__(self) -> Pulse:
        self.worst_s, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._beat)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(BEAT_S):
            now = time.monotonic()
            self.worst_s, last = max(self.worst_s, now - last), now
