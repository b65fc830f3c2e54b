"""The learner's side of the record link."""

from __future__ import annotations

import functools
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from pld_core.errors import LinkError
from pld_core.link.codec import decode
from pld_core.link.endpoint import HEARTBEAT_S, MISSED_HEARTBEATS, Endpoint
from pld_core.link.marks import Mark, own_folder
from pld_core.link.records import MESSAGE_BYTES, pack_status, unpack_batch
from pld_core.link.spool import RECORD_BYTES

_WINDOW_RECORDS = 2048  # that may wait for the application, per sender
_WINDOW_BYTES = 32 * 2**20
_OVERFLOW_BYTES = _WINDOW_BYTES + 2 * RECORD_BYTES  # only a sender that ignores the window gets here
_MOST_SENDERS = 1024
_CONFIRM_AFTER_S = 0.01  # acknowledgements are synced to disk and reported in groups
_IDLE_S = 1.0


@dataclass(frozen=True)
class Received:
    """A record as its sender gave it.

    acknowledge: call it when the record (and all before it of the same sender) need not come again.
    Store first, then acknowledge; a kill between the two repeats the record under the same sequence.
    """

    sender: str
    sequence: int
    record: dict[str, Any]
    acknowledge: Callable[[], None] = field(repr=False, compare=False)


@dataclass
class _Stream:
    """One sender. Numbers: want is taken next, acknowledged by the application, confirmed also on disk."""

    name: str
    spool: str
    want: int
    acknowledged: int
    confirmed: int
    peer: bytes = b""
    seen_at: float = 0.0
    waiting: int = 0
    waiting_bytes: int = 0
    told_end: int = 0  # what the sender was last told of ``end``
    mark: Mark | None = None

    @property
    def end(self) -> int:
        """The number from which on there is no room."""
        full = self.waiting_bytes >= _WINDOW_BYTES
        return self.want if full else self.want + max(_WINDOW_RECORDS - self.waiting, 0)


class RecordReceiver(Endpoint):
    """Gives each record of each sender once, in the sender's order.

    state: folder that remembers what was acknowledged; without one, a restarted receiver relies on the
    senders to remember it. lost: records that a sender's disk lost before they could be delivered.
    """

    def __init__(self, address: str = "tcp://127.0.0.1:5757", state: Path | None = None) -> None:
        super().__init__("record receiver", address, MISSED_HEARTBEATS * HEARTBEAT_S)
        self.lost = 0
        self._state = None if state is None else Path(state)
        self._owned = None if self._state is None else own_folder(self._state)
        self._identity = secrets.token_hex(8)
        self._ready = threading.Condition()  # its lock guards everything below
        self._queue: deque[tuple[_Stream, int, dict[str, Any], int]] = deque()
        self._streams: dict[tuple[str, str], _Stream] = {}
        self._answer: dict[int, _Stream] = {}  # by id(): senders to tell where they stand
        self._confirm: dict[int, _Stream] = {}  # those with new acknowledgements
        self._confirm_at = 0.0
        self._finished = False
        self._start(zmq.ROUTER, bind=True, max_bytes=MESSAGE_BYTES)

    @property
    def peers_age_s(self) -> dict[str, float]:
        """Seconds since each sender was last heard of."""
        now = time.monotonic()
        with self._ready:
            return {s.name: now - s.seen_at for s in sorted(self._streams.values(), key=lambda s: s.seen_at)}

    def receive(self, timeout_s: float) -> Received | None:
        """The next record; None if there is none within the timeout."""
        with self._ready:
            self._ready.wait_for(lambda: self._queue or self._finished or self._closing, timeout_s)
            self._check()
            if not self._queue:
                return None
            stream, number, record, size = self._queue.popleft()
            stream.waiting -= 1
            stream.waiting_bytes -= size
            more_room = stream.end - stream.told_end >= _WINDOW_RECORDS // 4
            if more_room:
                stream.told_end = stream.end
                self._answer[id(stream)] = stream
        if more_room:
            self._wake()
        return Received(stream.name, number, record, functools.partial(self._acknowledge, stream, number))

    def _acknowledge(self, stream: _Stream, number: int) -> None:
        with self._ready:
            if self._finished:
                self._check()
            if number <= stream.acknowledged:
                return
            if self._state is not None:
                stream.mark = stream.mark or Mark(self._mark_path(self._state, stream))
                stream.mark.write(number)  # at once, so that a kill right after this call forgets nothing
            stream.acknowledged = number
            first = not self._confirm
            self._confirm[id(stream)] = stream
            if first:
                self._confirm_at = time.monotonic() + _CONFIRM_AFTER_S
        if first:
            self._wake()

    # -- on the thread -------------------------------------------------------------------------------

    def _handle(self, frames: list[bytes]) -> None:
        if len(frames) != 2:
            raise LinkError(f"A message has one part, given {len(frames) - 1}; only RecordSender makes valid ones.")
        batch = unpack_batch(frames[1])
        stream = self._stream(batch)
        records = self._fresh(stream, batch)
        with self._ready:
            stream.peer, stream.seen_at = frames[0], time.monotonic()
            self._answer[id(stream)] = stream
            for number, record, size in records:
                self._queue.append((stream, number, record, size))
                stream.waiting += 1
                stream.waiting_bytes += size
                stream.want = number + 1
            if records:
                self._ready.notify_all()

    def _stream(self, batch: dict[str, Any]) -> _Stream:
        """The sender of a batch, with what is known of it from before."""
        key = batch["sender"], batch["spool"]
        stream = self._streams.get(key)
        if stream is None:
            if len(self._streams) >= _MOST_SENDERS:
                raise LinkError(f"More than {_MOST_SENDERS} senders; restart the receiver to forget the old ones.")
            done = batch["oldest"] - 1
            stream = _Stream(*key, want=done + 1, acknowledged=done, confirmed=done)
            if self._state is not None and self._mark_path(self._state, stream).exists():
                stream.mark = Mark(self._mark_path(self._state, stream))
                if stream.mark.value:
                    stream.acknowledged = stream.confirmed = stream.mark.value
                    stream.want = stream.acknowledged + 1
            with self._ready:
                self._streams[key] = stream
        if batch["oldest"] > stream.want:
            self._skip(stream, batch["oldest"])
        return stream

    def _fresh(self, stream: _Stream, batch: dict[str, Any]) -> list[tuple[int, dict[str, Any], int]]:
        """The records of a batch that are next in order: number, record, bytes. The others come again."""
        if batch["previous"] >= stream.want or stream.waiting_bytes > _OVERFLOW_BYTES:
            return []
        numbered = [(n, data) for n, data in enumerate(batch["records"], batch["first"]) if n >= stream.want]
        records = [(n, decode(data), len(data)) for n, data in numbered]
        if not all(isinstance(record, dict) for _, record, _ in records):
            raise LinkError(f"A record of sender {stream.name!r} is not a dictionary.")
        if records and records[0][0] > stream.want:
            self._skip(stream, records[0][0])
        return records

    def _skip(self, stream: _Stream, number: int) -> None:
        """The sender has nothing before ``number`` any more."""
        with self._ready:
            self.lost += number - stream.want
            stream.want = number

    def _turn(self) -> float:
        now = time.monotonic()
        with self._ready:
            confirm: list[_Stream] = []
            if now >= self._confirm_at:
                confirm, self._confirm = list(self._confirm.values()), {}
        self._confirm_all(confirm)
        with self._ready:
            answer, self._answer = list(self._answer.values()), {}
        for stream in answer:
            self._tell(stream)
        return self._confirm_at - now if self._confirm else _IDLE_S

    def _confirm_all(self, streams: list[_Stream]) -> None:
        for stream in streams:
            number = stream.acknowledged
            if stream.mark is not None:
                stream.mark.sync()  # before the sender forgets them
            with self._ready:
                stream.confirmed = number
                self._answer[id(stream)] = stream

    def _tell(self, stream: _Stream) -> None:
        with self._ready:
            stream.told_end = stream.end
            status = pack_status(self._identity, stream.want, stream.end - stream.want, stream.confirmed)
        self._post(stream.peer, status)

    def _finish(self) -> None:
        with self._ready:
            self._finished = True
            self._ready.notify_all()
        if self._failure is None:
            self._confirm_at = 0.0
            if self._streams:
                self._turn()
        for stream in self._streams.values():
            if stream.mark is not None:
                stream.mark.close()
        if self._owned is not None:
            os.close(self._owned)

    @staticmethod
    def _mark_path(state: Path, stream: _Stream) -> Path:
        return state / f"{stream.name}.{stream.spool}"
