"""Two small things on disk: a number that only grows, and a folder that has one owner."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from pld_core.errors import LinkError
from pld_core.storage import storage_errors

_NUMBER = struct.Struct("<Q")


class Mark:
    """A number in a file of 8 bytes, overwritten in place: a kill leaves the old one or the new one.

    It outlives the process at once and a power cut after ``sync``. value: 0 in a new file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            content = os.pread(self._file, _NUMBER.size, 0)
            self.value: int = _NUMBER.unpack(content)[0] if len(content) == _NUMBER.size else 0
            if not content:
                os.pwrite(self._file, _NUMBER.pack(0), 0)
                sync_folder(path.parent)

    def write(self, value: int) -> None:
        with storage_errors(self._path):
            os.pwrite(self._file, _NUMBER.pack(value), 0)
        self.value = value

    def sync(self) -> None:
        with storage_errors(self._path):
            os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def own_folder(folder: Path) -> int:
    """Make ``folder`` and lock it until the returned file is closed, or its process dies."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise LinkError(
            f"{folder} is in use by another sender or receiver; stop it or choose another folder."
        ) from None
    return file


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` themselves durable."""
    with storage_errors(folder):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
