"""``metrics.jsonl``: one JSON object a line, whole lines only, whatever kills the writer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pld_core.errors import StorageError
from pld_core.storage import finite, storage_errors, write_atomic


class MetricsFile:
    """Append-only rows. A line torn by a crash is cut off when the file is opened again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        heal(path)
        self._open()

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row with a single system call; after an error the file ends with the row before."""
        line = json.dumps(finite(dict(row)), separators=(",", ":")).encode() + b"\n"
        with storage_errors(self.path):
            try:
                written = os.write(self._descriptor, line)
            except OSError:
                self._cut()
                raise
            if written != len(line):  # the disk took only a part of it
                self._cut()
                raise StorageError(f"Cannot write {self.path}: the disk is full. What was recorded before is intact.")
            self._size += len(line)

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.path)

    def keep(self, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        """Atomically drop the rows that are not ``wanted``."""
        rows = self.rows()
        kept = [row for row in rows if wanted(row)]
        if len(kept) == len(rows):
            return
        text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in kept)
        write_atomic(self.path, text)
        self.close()
        self._open()

    def close(self) -> None:
        os.close(self._descriptor)

    def _open(self) -> None:
        with storage_errors(self.path):
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._size = os.fstat(self._descriptor).st_size

    def _cut(self) -> None:
        if os.fstat(self._descriptor).st_size > self._size:
            os.ftruncate(self._descriptor, self._size)


def heal(path: Path) -> int:
    """Cut an unfinished last line off; returns how many bytes were dropped."""
    if not path.exists():
        return 0
    with storage_errors(path), open(path, "r+b") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            file.truncate(end)
        return len(content) - end


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All complete rows; an unfinished or damaged line is left out (a reader may come while a run writes)."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
