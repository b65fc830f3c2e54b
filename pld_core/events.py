"""TensorBoard event files, written in the caller's thread.

tensorboardX's own ``SummaryWriter`` hands events to a thread that dies of a full disk, after which every
call waits for ever; of the library only the messages and the checksum are used here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pld_core.storage import storage_errors

VERSION = "brain.Event:2"  # from this version on, a restart marks which earlier points it replaces


class EventFile:
    """Numbers over steps. Purely additional: when the disk fails, it stops and what called it goes on."""

    def __init__(self, folder: Path) -> None:
        """The file is made, and tensorboardX imported, when there is something to write."""
        self._folder = folder
        self._file: BinaryIO | None = None
        self._broken = False

    def add(self, numbers: Mapping[str, float], step: int) -> None:
        """One point per name at ``step``; StorageError if the file cannot be made."""
        if numbers:
            values = [{"tag": name, "simple_value": value} for name, value in numbers.items()]
            self._write(step=step, summary={"value": values})

    def restart(self, step: int) -> None:
        """Tell TensorBoard to forget the points at ``step`` and after it that earlier files hold."""
        if self._folder.exists():
            self._write(step=step, session_log={"status": "START"})

    def close(self) -> None:
        """Close the file; what could not be written was told when it failed."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _write(self, **event: Any) -> None:
        if self._broken:
            return
        if self._file is None:
            with storage_errors(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = open(self._folder / _file_name(), "wb", buffering=0)  # noqa: SIM115 (held until close)
            self._write(file_version=VERSION)
        record = _record(event)
        try:
            if self._file is not None and self._file.write(record) != len(record):
                raise OSError("the disk took only a part")
        except OSError as error:
            self._broken = True
            self.close()
            reason = error.strerror or error
            warnings.warn(f"No more TensorBoard events from this process: {reason}. The run goes on.", stacklevel=2)


def _file_name() -> str:
    """TensorBoard reads the files of a folder in the order of their names, so the time comes first."""
    nanoseconds = time.time_ns()
    return f"events.out.tfevents.{nanoseconds // 10**9}.{socket.gethostname()}.{os.getpid()}.{nanoseconds % 10**9:09d}"


def _record(event: Mapping[str, Any]) -> bytes:
    """An event as a TFRecord: length, its checksum, message, its checksum."""
    from tensorboardX.proto.event_pb2 import Event  # type: ignore[attr-defined]  (generated code)
    from tensorboardX.record_writer import masked_crc32c

    message = Event(wall_time=time.time(), **event).SerializeToString()
    length = struct.pack("<Q", len(message))
    return b"".join(
        (length, struct.pack("<I", masked_crc32c(length)), message, struct.pack("<I", masked_crc32c(message)))
    )
