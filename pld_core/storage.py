"""Writing that either happens completely or leaves what was there before."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pld_core.errors import StorageError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EACCES: "permission denied; choose another folder (--runs_dir) or change its permissions",
    errno.EPERM: "permission denied; choose another folder (--runs_dir) or change its permissions",
    errno.EROFS: "the file system is read-only; choose another folder (--runs_dir)",
    errno.EIO: "the disk reports an input/output error",
}
_TEMPORARY = re.compile(r"\..+\.(\d+)\.(?:tmp|link)")  # of write_atomic, and of a checkpoint's second name


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, missing permission and the like into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise StorageError(
            f"Cannot write {path}: {_REASONS[error.errno]}. What was recorded before is intact."
        ) from error


def write_atomic(path: Path, content: bytes | str | Callable[[BinaryIO], Any]) -> None:
    """Replace ``path`` by ``content`` (or by what a callable writes); a crash leaves the old file.

    The temporary file lies in the same folder and is synced before it takes the name, so that after
    a power cut there is either the old or the new file, never half of one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


class DamagedArchiveError(StorageError):
    """The content of an archive of arrays is broken (and not merely unreadable at the moment)."""


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Any]:
    """``np.load`` of an ``.npz``, whose many ways to fail end in one error; the operating system's stay apart."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            if not hasattr(arrays, "files"):
                raise ValueError("not an archive")
            yield arrays
    except OSError as error:
        if error.errno is not None:
            raise StorageError(f"Cannot read {path}: {error.strerror}.") from error
        raise DamagedArchiveError(f"{path} is damaged ({error}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedArchiveError(f"{path} is damaged ({error}).") from error


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that killed writers left anywhere under ``folder``.

    Those of a process that lives are in use. This process's own are not: call this before it writes.
    """
    for path in folder.rglob(".*"):
        found = _TEMPORARY.fullmatch(path.name)
        if found and not _is_other_process(int(found[1])):
            with storage_errors(path):
                path.unlink(missing_ok=True)


def _is_other_process(number: int) -> bool:
    if number == os.getpid():
        return False
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it lives, under another user
    return True


def write_json(path: Path, value: Any) -> None:
    """Atomically write readable JSON; NaN and infinity become null, which every reader accepts."""
    write_atomic(path, json.dumps(finite(value), indent=2) + "\n")


def finite(value: Any) -> Any:
    """``value`` in JSON types: numpy scalars as Python numbers, arrays as lists, NaN as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, (str, int, bool, type(None))):
        return value
    return str(value)
