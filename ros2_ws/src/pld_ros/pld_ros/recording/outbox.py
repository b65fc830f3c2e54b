"""Records on their way to the learner, also while there is no room for them. No rclpy here."""

from __future__ import annotations

import contextlib
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

from pld_core.errors import PLDError, StorageError
from pld_core.link import RecordSender

HELD_BYTES = 256 * 2**20  # in memory, while the spool takes nothing


class Outbox:
    """A RecordSender that never fails: what its full spool refuses waits in memory, in order.

    address: of the learner's RecordReceiver; empty: nothing is sent. ``fault`` says what is wrong.
    """

    def __init__(self, address: str, run_dir: Path, name: str) -> None:
        self.fault, self.dropped = "", 0
        self._held: deque[dict[str, Any]] = deque()
        self._held_bytes = 0
        self._make = partial(RecordSender, address, run_dir / "spool", name) if address else None
        self._sender: RecordSender | None = None
        self.drain()

    def send(self, record: dict[str, Any]) -> None:
        if self._make is None:
            return
        if self._held_bytes >= HELD_BYTES:
            self.dropped += 1
            self.fault = f"{self.dropped} records are lost: neither disk nor memory has room for more"
            return
        self._held.append(record)
        self._held_bytes += _size(record)
        if not self.fault:
            self.drain()

    def drain(self) -> None:
        """Send what waits; call it now and then."""
        if self._make is None:
            return
        try:
            self._sender = self._sender or self._make()
            while self._held:
                self._sender.send(self._held[0])
                self._held_bytes -= _size(self._held.popleft())
            self.fault = ""
        except StorageError as error:
            self.fault = str(error)
            self._give_up()

    def _give_up(self) -> None:
        """A sender whose thread met a full disk has stopped for good: the next attempt makes another one."""
        if self._sender is not None:
            with contextlib.suppress(PLDError):
                self._sender.close()
            self._sender = None

    def diagnostics(self) -> dict[str, Any]:
        if self._sender is None:
            return {"link_pending": len(self._held)}
        return {
            "link_connected": self._sender.connected,
            "link_sent": self._sender.sent,
            "link_pending": self._sender.pending + len(self._held),
            "link_acknowledged": self._sender.acknowledged,
            "records_dropped": self.dropped,
        }

    def close(self, timeout_s: float = 1.0) -> None:
        """What the learner has not taken by then stays in the spool."""
        self.drain()
        if self._sender is None:
            return
        with contextlib.suppress(PLDError):
            if self._sender.connected:
                self._sender.flush(timeout_s)
        self._give_up()


def _size(record: dict[str, Any]) -> int:
    return 2000 + sum(frame.nbytes for frame in record.get("images", {}).values())
