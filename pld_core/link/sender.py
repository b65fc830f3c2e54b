"""The robot's side of the record link."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zmq

from pld_core.errors import LinkError, StorageError
from pld_core.link.codec import encode
from pld_core.link.endpoint import HEARTBEAT_S, MISSED_HEARTBEATS, RETRY_S, Endpoint
from pld_core.link.records import BATCH_BYTES, BATCH_RECORDS, check_name, pack_batch, unpack_status
from pld_core.link.spool import RECORD_BYTES, Spool

_FLIGHT_BYTES = 4 * 2**20  # sent and not yet confirmed
_STATUS_BYTES = 2**16
_LONGEST_PATIENCE_S = 30.0


class RecordSender(Endpoint):
    """Sends records to a learner, which may be away, slow or restarted; never waits for it.

    A record is in the spool when ``send`` returns and leaves it when the learner has acknowledged it.
    A sender that was killed goes on with its spool: one folder per name, one process per folder.
    Only what is synced to disk is sent, so that no number is ever used for two records.
    """

    def __init__(
        self,
        address: str,
        spool: Path,
        name: str,
        *,
        spool_limit_bytes: int = 2 * 2**30,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        super().__init__(f"record sender {check_name(name)!r}", address, MISSED_HEARTBEATS * heartbeat_s)
        if spool_limit_bytes <= 0:
            raise LinkError(f"spool_limit_bytes must be positive; given {spool_limit_bytes}.")
        self._name, self._heartbeat_s = name, heartbeat_s
        self._spool = Spool(Path(spool), name, spool_limit_bytes)
        self._changed = threading.Condition()
        self._receiver = ""  # which run of the learner the next two are about
        self._want, self._room = 0, 0
        self._next = self._spool.oldest  # number of the record to send next
        self._flight: deque[tuple[int, int]] = deque()  # per batch: last number, bytes
        self._patience_s, self._progress_at, self._beat_at = self._timeout_s, 0.0, 0.0
        self._start(zmq.DEALER, bind=False, max_bytes=_STATUS_BYTES)

    @property
    def sent(self) -> int:
        """Records given to ``send`` so far, by processes before this one too."""
        return self._spool.last

    @property
    def acknowledged(self) -> int:
        return self._spool.acknowledged

    @property
    def pending(self) -> int:
        """Records that the learner has not acknowledged."""
        return self.sent - self.acknowledged

    def send(self, record: Mapping[str, Any]) -> int:
        """Put a record into the spool; returns its sequence number.

        It outlives this process at once, a power cut after ``heartbeat_s``. Raises StorageError when
        the disk or the spool is full; the record is then not sent, those before it are intact.
        """
        self._check()
        if not isinstance(record, Mapping):
            raise LinkError(f"A record is a dictionary; given a {type(record).__name__}.")
        number = self._spool.append(encode(record, RECORD_BYTES))
        self._wake()
        return number

    def flush(self, timeout_s: float) -> bool:
        """Wait until the learner has acknowledged everything; False if it has not by then."""
        with self._changed:
            self._changed.wait_for(lambda: self.pending == 0 or self._failure or self._closing, timeout_s)
        if self.pending:
            self._check()
        return self.pending == 0

    def close(self) -> None:
        """Stop; what is not acknowledged stays in the spool for the next sender (or ``flush`` before)."""
        try:
            self._spool.sync()
        finally:
            super().close()

    # -- on the thread -------------------------------------------------------------------------------

    def _handle(self, frames: list[bytes]) -> None:
        status = unpack_status(frames[-1])
        now, want = time.monotonic(), status["want"]
        if want > self._spool.last + 1:
            raise StorageError(
                f"The learner has record {want - 1} of {self._name!r}, but the spool {self._spool.folder} ends at "
                f"{self._spool.last}: it is an old copy. Give a new, empty spool folder."
            )
        if status["receiver"] != self._receiver:  # the learner was restarted, and with it what it had taken
            self._receiver = status["receiver"]
            self._rewind(want)
        elif want > self._want:
            self._patience_s, self._progress_at = self._timeout_s, now
        self._want, self._room = want, status["room"]
        self._next = max(self._next, want)
        while self._flight and self._flight[0][0] < want:
            self._flight.popleft()
        if status["acknowledged"] > self._spool.acknowledged:
            self._spool.acknowledge(status["acknowledged"])
            with self._changed:
                self._changed.notify_all()

    def _rewind(self, number: int) -> None:
        """Send again from ``number`` on, or from the oldest that is left."""
        self._next = max(number, self._spool.oldest)
        self._flight.clear()

    def _turn(self) -> float:
        now = time.monotonic()
        if self.connected:
            if self._flight and now - self._progress_at > self._patience_s:  # lost with a connection
                self._patience_s = min(2 * self._patience_s, _LONGEST_PATIENCE_S)
                self._progress_at = now
                self._rewind(self._want)
            self._transmit()
        if now >= self._beat_at:
            self._spool.sync()
            self._post_batch(self._next, self._next, [])
        return self._beat_at - time.monotonic()

    def _transmit(self) -> None:
        """Send what the learner has room for."""
        while self._next < self._want + self._room and sum(size for _, size in self._flight) < _FLIGHT_BYTES:
            if self._next > self._spool.durable:
                self._spool.sync()
            if self._next > self._spool.durable:
                return
            count = min(BATCH_RECORDS, self._want + self._room - self._next)
            first, records = self._spool.read(self._next, count, BATCH_BYTES)
            if not records:
                raise StorageError(
                    f"Record {self._next} in {self._spool.folder} cannot be read back: the disk has lost it. "
                    "Start the sender again; it goes on with the next record that is intact."
                )
            if not self._post_batch(self._next, first, records):
                return
            if not self._flight:
                self._progress_at = time.monotonic()
            self._next = first + len(records)
            self._flight.append((self._next - 1, sum(map(len, records))))

    def _post_batch(self, start: int, first: int, records: list[bytes]) -> bool:
        spool = self._spool
        posted = self._post(pack_batch(self._name, spool.identity, spool.oldest, start - 1, first, records))
        self._beat_at = time.monotonic() + (self._heartbeat_s if posted else min(RETRY_S, self._heartbeat_s))
        return posted

    def _finish(self) -> None:
        self._spool.close()
        with self._changed:
            self._changed.notify_all()
