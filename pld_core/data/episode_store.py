"""An append-only folder of episodes that survives crashes, full disks and power cuts.

One ``episode-00000000.npz`` per episode and ``index.jsonl`` with one line each (file, ticks, spec,
outcome, policy version, ticks per source, metadata). An episode counts as
stored once its file has its name; the index is only a summary and is rebuilt from the files
whenever the two disagree. One writer at a time; any number of readers (``read_only``).
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pld_core.data.episode_files import DamagedEpisodeError, read_episode, read_record, write_episode
from pld_core.errors import StorageError
from pld_core.storage import storage_errors, write_atomic
from pld_core.types import Episode

_PATTERN = "episode-*.npz"
_CORRUPT = "corrupt"


class EpisodeStore:
    """Episodes in the order in which they were appended.

    Opening heals what a crash left behind: files without an index line are indexed, half-written
    lines dropped, damaged files moved to ``corrupt/`` with a warning. With ``read_only`` the same
    view is given and nothing on disk is touched.
    """

    def __init__(self, folder: str | Path, read_only: bool = False) -> None:
        self.folder, self.read_only = Path(folder), read_only
        if not read_only:
            with storage_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                for leftover in self.folder.glob(".*.tmp"):  # of a writer that was killed
                    leftover.unlink(missing_ok=True)
        self._records = self._open()
        self._next = 1 + max((_number(path.name) for path in self._all_files()), default=-1)

    @property
    def index_path(self) -> Path:
        return self.folder / "index.jsonl"

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Episode]:
        """Every episode; a file whose content turns out to be damaged is moved aside and left out."""
        return (episode for episode, _ in self.items())

    def items(self) -> Iterator[tuple[Episode, dict[str, Any]]]:
        """Every episode that can be read, with what the caller of ``append`` added."""
        for record in list(self._records):
            path = self.folder / record["file"]
            try:
                episode = read_episode(path)
            except DamagedEpisodeError as error:
                self._set_aside(path, error)
                self._records.remove(record)
                continue
            yield episode, dict(record["metadata"])

    def metadata(self) -> list[dict[str, Any]]:
        """What the callers of ``append`` added, one dictionary per episode."""
        return [dict(record["metadata"]) for record in self._records]

    def append(self, episode: Episode, **metadata: Any) -> Path:
        """Store one episode durably; ``metadata`` (git revision, attempt, ...) goes with it as JSON."""
        if self.read_only:
            raise StorageError(f"{self.folder} was opened for reading only; open it without read_only to append.")
        path = self.folder / f"episode-{self._next:08d}.npz"
        record = write_episode(path, episode, metadata)
        try:
            self._append_line(record)
        except BaseException:
            path.unlink(missing_ok=True)  # all or nothing, so that a repeated append stores it once
            raise
        self._records.append(record)
        self._next += 1
        return path

    def _append_line(self, record: dict[str, Any]) -> None:
        with storage_errors(self.index_path), open(self.index_path, "ab") as index:
            before = index.tell()
            try:
                index.write(_line(record))
                index.flush()
                os.fsync(index.fileno())
            except OSError:
                os.truncate(self.index_path, before)
                raise

    # -- healing ---------------------------------------------------------------------------------

    def _open(self) -> list[dict[str, Any]]:
        """Index lines that agree with the files, in the files' order."""
        lines, clean = self._read_index()
        records = []
        for path in sorted(self.folder.glob(_PATTERN)):
            known = lines.get(path.name)
            if known is not None and known.get("bytes") == path.stat().st_size:
                records.append(known)
                continue
            try:
                records.append(read_record(path))
            except DamagedEpisodeError as error:
                self._set_aside(path, error)
        healed = clean and [r["file"] for r in records] == list(lines)
        if not healed and not self.read_only:
            write_atomic(self.index_path, b"".join(_line(record) for record in records))
        if lost := sorted(set(lines) - {r["file"] for r in records}):
            warnings.warn(f"{self.index_path} names files that are gone or damaged: {', '.join(lost)}.", stacklevel=3)
        return records

    def _read_index(self) -> tuple[dict[str, dict[str, Any]], bool]:
        """Lines by file name, and whether every byte of the index made sense."""
        if not self.index_path.exists():
            return {}, True
        content = self.index_path.read_bytes()
        lines, clean = {}, content.endswith(b"\n") or not content
        for text in content.splitlines():
            try:
                record = json.loads(text)
                lines[record["file"]] = record
            except (ValueError, KeyError, TypeError):
                clean = False
        return lines, clean

    def _set_aside(self, path: Path, error: Exception) -> None:
        if self.read_only:
            warnings.warn(f"{error} It is left out.", stacklevel=3)
            return
        target = self.folder / _CORRUPT / path.name
        with storage_errors(target):
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)
        warnings.warn(f"Episode file {path.name} is damaged and was moved to {target}.", stacklevel=3)

    def _all_files(self) -> list[Path]:
        """Damaged ones included: their numbers are not given out a second time."""
        return [*self.folder.glob(_PATTERN), *(self.folder / _CORRUPT).glob(_PATTERN)]


def _number(name: str) -> int:
    digits = name.removeprefix("episode-").removesuffix(".npz")
    return int(digits) if digits.isdigit() else -1


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"
