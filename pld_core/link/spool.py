"""Numbered records on the sender's disk, until the learner has acknowledged them.

Files: ``segment-<number of its first record>`` with the records one after another, each as length
(uint32), CRC-32 (uint32, started from the number) and payload; ``identity.json``; two marks.
A number is never given to two records, whatever was killed or lost in between.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import secrets
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

from pld_core.errors import LinkError, StorageError
from pld_core.link.marks import Mark, own_folder, sync_folder
from pld_core.storage import storage_errors, write_atomic

RECORD_BYTES = 64 * 2**20  # of one record, encoded
SEGMENT_BYTES = 16 * 2**20

_HEADER = struct.Struct("<II")
_SEGMENT = re.compile(r"segment-(\d{20})")


class SegmentReader:
    """The records of one file in order. next: number of the record that is read next; end: where it starts."""

    def __init__(self, path: Path, first: int) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 (closed by `close`)
        self.first, self.next, self.end = first, first, 0

    def read(self) -> bytes | None:
        """The next payload; None where the file ends or makes no sense any more."""
        header = self._file.read(_HEADER.size)
        if len(header) == _HEADER.size:
            size, checksum = _HEADER.unpack(header)
            payload = self._file.read(size) if size <= RECORD_BYTES else b""
            if len(payload) == size and _checksum(payload, self.next) == checksum:
                self.next += 1
                self.end += _HEADER.size + size
                return payload
        self._file.seek(self.end)
        return None

    def close(self) -> None:
        self._file.close()


class Spool:
    """Records 1, 2, 3, ... of one sender, oldest first.

    ``append`` and ``sync`` may be called from any thread, ``read`` and ``acknowledge`` from one.
    identity: of this folder, for ever; last: number of the newest record; durable: of the newest that
    outlives a power cut (all outlive the process).
    """

    def __init__(self, folder: Path, name: str, limit_bytes: int) -> None:
        self.folder, self._limit_bytes = folder, limit_bytes
        self._segment_bytes = min(SEGMENT_BYTES, max(limit_bytes // 8, 1))
        self._lock, self._syncing = threading.Lock(), threading.Lock()
        self._reader: SegmentReader | None = None
        self._rotated: list[int] = []  # files that are complete but not yet synced
        self._closed = False
        with contextlib.ExitStack() as undo:
            self._owned = own_folder(folder)
            undo.callback(os.close, self._owned)
            self.identity = _identity(folder / "identity.json", name)
            self._acknowledged = Mark(folder / "acknowledged")
            undo.callback(self._acknowledged.close)
            self._reached = Mark(folder / "reached")  # the newest number that may have left this machine
            undo.callback(self._reached.close)
            with storage_errors(folder):
                self._recover()
            self._undo = undo.pop_all()

    @property
    def acknowledged(self) -> int:
        return self._acknowledged.value

    @property
    def oldest(self) -> int:
        """Number of the oldest record that is kept for sending."""
        with self._lock:
            return max(self.acknowledged + 1, next(iter(self._sizes)))

    def append(self, payload: bytes) -> int:
        """Keep a record; returns its number. On a full disk or spool nothing has changed."""
        with self._lock:
            if self._closed:
                raise LinkError(f"The spool in {self.folder} is closed; open it again.")
            number = self.last + 1
            entry = _HEADER.pack(len(payload), _checksum(payload, number)) + payload
            with storage_errors(self.folder):
                self._make_room(len(entry))
                try:
                    self._write(entry)
                except OSError:
                    if not self._start_over():
                        raise
                    self._write(entry)
            self._sizes[self._newest] += len(entry)
            self.last = number
            return number

    def sync(self) -> None:
        """Make everything durable that has been appended before the call."""
        with self._syncing:
            with self._lock:
                if self._closed or self.durable == self.last:
                    return
                reached, newest = self.last, self._active
                rotated, self._rotated = self._rotated, []
            try:
                with storage_errors(self.folder):
                    self._reached.write(reached)
                    for file in (*rotated, newest):
                        os.fsync(file)
                if rotated:
                    sync_folder(self.folder)
            finally:
                for file in rotated:
                    os.close(file)
            self.durable = reached

    def read(self, start: int, count: int, size: int) -> tuple[int, list[bytes]]:
        """``(first, payloads)``: durable records from ``start`` on, up to about ``size`` bytes.

        ``first`` is greater than ``start`` only where the disk has lost what was in between.
        """
        reader, payloads = self._seek(start), []
        while len(payloads) < count and size > 0:
            payload = reader.read() if reader.next <= self.durable else None
            if payload is not None:
                payloads.append(payload)
                size -= len(payload)
                continue
            following = next((first for first in list(self._sizes) if first > reader.first), None)
            if payloads or following is None:
                break
            reader = self._open(following)
        return reader.next - len(payloads), payloads

    def acknowledge(self, number: int) -> None:
        """Forget the records up to ``number``."""
        with self._lock:
            if self.acknowledged < number <= self.last and not self._closed:
                self._acknowledged.write(number)
                self._drop()

    def close(self) -> None:
        with self._syncing, self._lock:
            if self._closed:
                return
            self._closed = True
            if self._reader:
                self._reader.close()
            for file in (*self._rotated, self._active):
                os.close(file)
            self._undo.close()

    # -- writing, with the lock held -----------------------------------------------------------------

    def _make_room(self, size: int) -> None:
        if self._used() + size > self._limit_bytes:
            self._start_over()
        if self._used() + size > self._limit_bytes:
            raise StorageError(
                f"The spool in {self.folder} holds {self._used()} of {self._limit_bytes} bytes; another {size} do not "
                "fit. Start the learner, which empties it, or raise spool_limit_bytes. What is in it is intact."
            )
        if self._sizes[self._newest] and self._sizes[self._newest] + size > self._segment_bytes:
            self._rotate(self.last + 1)

    def _start_over(self) -> bool:
        """Give back the room of the newest file if all of it is acknowledged."""
        if self.acknowledged < self.last or not self._sizes[self._newest]:
            return False
        old = self._active
        self._rotate(self.last + 1)
        os.ftruncate(old, 0)  # it is still open here and there
        self._drop()
        return True

    def _used(self) -> int:
        return sum(self._sizes.values())

    def _write(self, entry: bytes) -> None:
        start = self._sizes[self._newest]
        written = 0
        try:
            while written < len(entry):
                written += os.pwrite(self._active, entry[written:], start + written)
        except OSError:
            with contextlib.suppress(OSError):  # the next record overwrites the rest, if it has to
                os.ftruncate(self._active, start)
            raise

    def _rotate(self, first: int) -> None:
        """Go on in a new file, whose first record will have number ``first``."""
        file = os.open(self._path(first), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        if self._sizes:
            self._rotated.append(self._active)
        self._active, self._newest = file, first
        self._sizes[first] = 0

    def _drop(self) -> None:
        """Delete the files whose records are all acknowledged; never the newest, whose name is a number."""
        firsts = list(self._sizes)
        for first, following in itertools.pairwise(firsts):
            if following > self.acknowledged + 1:
                return
            with storage_errors(self.folder):
                self._path(first).unlink(missing_ok=True)
            del self._sizes[first]

    # -- reading and opening ---------------------------------------------------------------------------

    def _path(self, first: int) -> Path:
        return self.folder / f"segment-{first:020d}"

    def _seek(self, start: int) -> SegmentReader:
        if self._reader and self._reader.next == start:
            return self._reader
        firsts = list(self._sizes)
        reader = self._open(max((first for first in firsts if first <= start), default=firsts[0]))
        while reader.next < start and reader.read() is not None:
            pass
        return reader

    def _open(self, first: int) -> SegmentReader:
        if self._reader:
            self._reader.close()
        self._reader = SegmentReader(self._path(first), first)
        return self._reader

    def _recover(self) -> None:
        """Find where the process before this one stopped; cut off what it had half written."""
        self._sizes = {first: path.stat().st_size for first, path in sorted(_segments(self.folder))}
        tail = 0
        if self._sizes:
            self._newest = max(self._sizes)
            tail = self._cut_torn_tail()
            self._active = os.open(self._path(self._newest), os.O_WRONLY)
        intact = max(tail, self.acknowledged)
        self.last = max(intact, self._reached.value)
        if self.last > intact:
            warnings.warn(f"{self.folder}: the disk lost records {intact + 1} to {self.last}.", stacklevel=4)
        if not self._sizes or self.last > tail:
            self._rotate(self.last + 1)
        for first in self._sizes:
            _sync_file(self._path(first))
        sync_folder(self.folder)
        self.durable = self.last

    def _cut_torn_tail(self) -> int:
        """Number of the last good record in the newest file."""
        reader = SegmentReader(self._path(self._newest), self._newest)
        while reader.read() is not None:
            pass
        reader.close()
        os.truncate(self._path(self._newest), reader.end)
        self._sizes[self._newest] = reader.end
        return reader.next - 1


def _checksum(payload: bytes, number: int) -> int:
    return zlib.crc32(payload, number & 0xFFFFFFFF)


def _segments(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.iterdir():
        if found := _SEGMENT.fullmatch(path.name):
            yield int(found[1]), path


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _identity(path: Path, name: str) -> str:
    """The spool's own number, made with it: another spool of the same name is another sender to a receiver."""
    if not path.exists():
        write_atomic(path, json.dumps({"sender": name, "spool": secrets.token_hex(16)}) + "\n")
    try:
        content = json.loads(path.read_bytes())
        owner, identity = str(content["sender"]), str(content["spool"])
    except (ValueError, KeyError, TypeError) as error:
        raise LinkError(f"{path} is damaged ({error!r}). Move {path.parent} away, or give another spool.") from error
    if owner != name:
        raise LinkError(
            f"The spool {path.parent} belongs to sender {owner!r}, given {name!r}. Give each its own spool."
        )
    return identity
