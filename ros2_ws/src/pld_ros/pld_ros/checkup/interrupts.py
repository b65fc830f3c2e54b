"""Ctrl-C at any time, and still every arm is let go of."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While open, each signal that would end the process raises KeyboardInterrupt instead, so that ``finally`` runs.

    Does nothing outside of the main thread, where Python handles no signals.
    """

    def __init__(self) -> None:
        self._held_back = self._came = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves SIGHUP
                    self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what was there

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """For calls of an arm's driver, where a lock might stay closed: an interruption is raised at the end."""
        self._held_back = True
        try:
            yield
        finally:
            self._held_back = False
        self.raise_what_came()

    def raise_what_came(self) -> None:
        """Raise what was held back, here: between two steps, where no lock is held."""
        if self._came:
            self._came = False
            raise KeyboardInterrupt

    def _interrupt(self, *_: object) -> None:
        if not self._held_back:
            raise KeyboardInterrupt
        self._came = True
