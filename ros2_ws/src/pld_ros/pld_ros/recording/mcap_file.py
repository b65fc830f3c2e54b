"""A writer of MCAP files (https://mcap.dev/spec) that a crash or a full disk cannot spoil.

Schemas and channels stand first, then chunks of messages, each compressed and followed by its index. A
chunk is on disk as a whole or not at all: ``recover`` cuts a torn tail off and ends the file properly,
and so does ``finish`` after a failed write. Reading is left to other libraries.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pld_core.errors import StorageError
from pld_core.storage import storage_errors

try:
    from compression import zstd  # type: ignore[import-not-found]
except ImportError:  # Python before 3.14; rosbags depends on it
    from backports import zstd

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(1, 9)
STATISTICS, DATA_END = 0x0B, 0x0F
CHUNK_BYTES = 2**20
CHUNK_NS = 1_000_000_000  # what a crash may lose
_ZSTD_LEVEL = 1  # rendered frames shrink to a fraction even at the quickest level
_COMPRESSION = "zstd"


@dataclass(frozen=True)
class Channel:
    """A topic. definition: the .msg texts of its type and all that it uses; qos: as YAML."""

    topic: str
    type: str
    definition: str
    qos: str = ""


@dataclass
class _Chunk:
    start_ns: int = 2**63 - 1
    end_ns: int = 0
    records: bytearray = field(default_factory=bytearray)
    index: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # channel: (time, offset)


@dataclass
class Counts:
    """Of the messages that are safely in the file; times in nanoseconds."""

    messages: dict[int, int] = field(default_factory=dict)  # by channel id, from 1
    start_ns: int = 2**63 - 1
    end_ns: int = 0

    @property
    def total(self) -> int:
        return sum(self.messages.values())


class McapFile:
    """Made by ``create`` or ``recover``; channel ids are 1, 2, ... in the order of the channels."""

    def __init__(self, path: Path, handle: int, position: int) -> None:
        self.path, self.position = path, position  # end of what is complete
        self.counts = Counts()
        self._handle = handle
        self._head: list[bytes] = []  # schema and channel records
        self._kinds: list[int] = []
        self._chunk, self._chunk_indexes = _Chunk(), list[bytes]()
        self._sequence = 0

    @classmethod
    def create(cls, path: Path, channels: list[Channel]) -> McapFile:
        """Raises StorageError if there is no room."""
        with storage_errors(path):
            file = cls(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), 0)
            for number, channel in enumerate(channels, 1):
                file._declare(number, channel)
            try:
                file._append(MAGIC + _record(HEADER, _text("ros2") + _text("pld")) + b"".join(file._head))
            except OSError:
                os.close(file._handle)
                raise
        return file

    @classmethod
    def recover(cls, path: Path) -> McapFile:
        """Take over a file whose writer died; what is complete is kept. ``finish`` ends it."""
        with storage_errors(path):
            file = cls(path, os.open(path, os.O_RDWR), 0)
            file._scan(path.read_bytes())
            os.ftruncate(file._handle, file.position)
        return file

    def write(self, channel: int, stamp_ns: int, data: bytes) -> None:
        """Add a message. Raises StorageError if a chunk did not fit on the disk; it is dropped then."""
        chunk = self._chunk
        chunk.start_ns, chunk.end_ns = min(chunk.start_ns, stamp_ns), max(chunk.end_ns, stamp_ns)
        chunk.index.setdefault(channel, []).append((stamp_ns, len(chunk.records)))
        self._sequence += 1
        head = struct.pack("<HIQQ", channel, self._sequence & 0xFFFFFFFF, stamp_ns, stamp_ns)
        chunk.records += struct.pack("<BQ", MESSAGE, len(head) + len(data)) + head
        chunk.records += data
        if len(chunk.records) >= CHUNK_BYTES or chunk.end_ns - chunk.start_ns >= CHUNK_NS:
            self.flush()

    def flush(self) -> None:
        """Write the present chunk. Raises StorageError; the file ends after the last complete one then."""
        chunk, self._chunk = self._chunk, _Chunk()
        if not chunk.records:
            return
        packed = zstd.compress(bytes(chunk.records), _ZSTD_LEVEL)
        span = struct.pack("<QQQI", chunk.start_ns, chunk.end_ns, len(chunk.records), zlib.crc32(chunk.records))
        record = _record(CHUNK, span + _text(_COMPRESSION) + struct.pack("<Q", len(packed)) + packed)
        group = _Group(
            self.position, len(record), chunk.start_ns, chunk.end_ns, len(packed), len(chunk.records), missing=0
        )
        indexes = b""
        for channel, entries in chunk.index.items():
            group.offsets[channel], group.counts[channel] = group.start + len(record) + len(indexes), len(entries)
            content = b"".join(struct.pack("<QQ", *entry) for entry in entries)
            indexes += _record(MESSAGE_INDEX, struct.pack("<HI", channel, len(content)) + content)
        with storage_errors(self.path):
            self._append(record + indexes)
        self._adopt(group, self.position)

    def finish(self) -> None:
        """Write what is left and the summary, and sync. Raises StorageError; call it again when there is room."""
        self.flush()
        with storage_errors(self.path):
            data_end = _record(DATA_END, struct.pack("<I", 0))
            summary = b"".join([*self._head, *self._chunk_indexes, self._statistics()])
            start = self.position + len(data_end)
            self._append(data_end + summary + _record(FOOTER, struct.pack("<QQI", start, 0, 0)) + MAGIC)
            os.fsync(self._handle)
        self.close()

    def topics(self) -> Iterator[tuple[str, str, str]]:
        """Topic, type and QoS of the channels, in order."""
        kinds: dict[int, str] = {}
        for _, kind, content in _records(b"".join(self._head), 0):
            texts = _texts(content, 2 if kind == SCHEMA else 4)
            if kind == SCHEMA:
                kinds[struct.unpack_from("<H", content)[0]] = next(texts)
            else:
                topic, _, metadata = next(texts), next(texts), next(texts)
                yield topic, kinds[struct.unpack_from("<H", content, 2)[0]], list(_texts(metadata.encode(), 0))[1]

    def close(self) -> None:
        """Let go of the file as it is."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _append(self, data: bytes) -> None:
        """All of ``data`` or, with an OSError, nothing."""
        view, written = memoryview(data), 0
        try:
            while written < len(data):
                written += os.pwrite(self._handle, view[written:], self.position + written)
        except OSError:
            os.ftruncate(self._handle, self.position)
            raise
        self.position += written

    def _declare(self, number: int, channel: Channel) -> None:
        """One schema for each channel: they are small, and numbers stay simple."""
        schema = struct.pack("<H", number) + _text(channel.type) + _text("ros2msg") + _text(channel.definition)
        metadata = _text("offered_qos_profiles") + _text(channel.qos)
        content = struct.pack("<HH", number, number) + _text(channel.topic) + _text("cdr")
        self._remember(SCHEMA, _record(SCHEMA, schema))
        self._remember(CHANNEL, _record(CHANNEL, content + struct.pack("<I", len(metadata)) + metadata))

    def _remember(self, kind: int, record: bytes) -> None:
        self._head.append(record)
        self._kinds.append(kind)

    def _count(self, start_ns: int, end_ns: int, messages: Mapping[int, int]) -> None:
        counts = self.counts
        counts.start_ns, counts.end_ns = min(counts.start_ns, start_ns), max(counts.end_ns, end_ns)
        for channel, count in messages.items():
            counts.messages[channel] = counts.messages.get(channel, 0) + count

    def _statistics(self) -> bytes:
        counts, kinds = self.counts, self._kinds
        pairs = b"".join(struct.pack("<HQ", *item) for item in sorted(counts.messages.items()))
        start = counts.start_ns if counts.total else 0
        content = struct.pack(
            "<QHIIIIQQI", counts.total, kinds.count(SCHEMA), kinds.count(CHANNEL), 0, 0, len(self._chunk_indexes),
            start, counts.end_ns, len(pairs),
        )  # fmt: skip
        return _record(STATISTICS, content + pairs)

    def _scan(self, data: bytes) -> None:
        """Find the last complete chunk with its index; everything after it goes."""
        if not data.startswith(MAGIC):
            raise StorageError(f"{self.path} is no MCAP file, or was cut before its first record. Delete it.")
        self.position = len(MAGIC)
        group: _Group | None = None
        for start, kind, content in _records(data, self.position):
            end = start + 9 + len(content)
            if kind in (DATA_END, FOOTER):
                return
            if group is not None:
                if kind != MESSAGE_INDEX or not group.take(start, content):
                    return
                if group.missing == 0:
                    self._adopt(group, end)
                    group = None
            elif kind == CHUNK:
                group = _Group.of(start, content)
                if group is None:
                    return
            else:
                if kind in (SCHEMA, CHANNEL):
                    self._remember(kind, data[start:end])
                self.position = end

    def _adopt(self, group: _Group, end: int) -> None:
        numbers = b"".join(struct.pack("<HQ", *item) for item in group.offsets.items())
        span = struct.pack("<QQQQI", group.start_ns, group.end_ns, group.start, group.length, len(numbers))
        sizes = struct.pack("<QQ", group.packed, group.size)
        index = struct.pack("<Q", end - group.start - group.length)
        self._chunk_indexes.append(_record(CHUNK_INDEX, span + numbers + index + _text(_COMPRESSION) + sizes))
        self._count(group.start_ns, group.end_ns, group.counts)
        self.position = end


@dataclass
class _Group:
    """A chunk found in a file, and the index records that follow it."""

    start: int  # of the chunk's record
    length: int
    start_ns: int
    end_ns: int
    packed: int  # bytes, compressed
    size: int  # bytes
    missing: int  # messages that no index record has named yet
    offsets: dict[int, int] = field(default_factory=dict)  # channel: where its index record stands
    counts: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, start: int, content: bytes) -> _Group | None:
        """None for a chunk that is damaged."""
        try:
            start_ns, end_ns, size, checksum = struct.unpack_from("<QQQI", content)
            name = struct.unpack_from("<I", content, 28)[0]
            packed = content[40 + name :]
            if content[32 : 32 + name] != _COMPRESSION.encode():
                return None
            records = zstd.decompress(packed)
        except (struct.error, zstd.ZstdError):
            return None
        if len(records) != size or zlib.crc32(records) != checksum:
            return None
        messages = sum(kind == MESSAGE for _, kind, _ in _records(records, 0))
        return cls(start, 9 + len(content), start_ns, end_ns, len(packed), size, messages)

    def take(self, start: int, content: bytes) -> bool:
        """Count one index record in; False if it is not this chunk's."""
        channel, length = struct.unpack_from("<HI", content)
        self.offsets[channel], self.counts[channel] = start, length // 16
        self.missing -= length // 16
        return self.missing >= 0


def _records(data: bytes, position: int) -> Iterator[tuple[int, int, bytes]]:
    """Start, kind and content of the complete records from ``position`` on."""
    while position + 9 <= len(data):
        kind, length = struct.unpack_from("<BQ", data, position)
        end = position + 9 + length
        if kind == 0 or end > len(data):
            return
        yield position, kind, data[position + 9 : end]
        position = end


def _record(kind: int, content: bytes) -> bytes:
    return struct.pack("<BQ", kind, len(content)) + content


def _texts(data: bytes, position: int) -> Iterator[str]:
    while position + 4 <= len(data):
        length = struct.unpack_from("<I", data, position)[0]
        yield data[position + 4 : position + 4 + length].decode()
        position += 4 + length


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data
