"""Shared memory that Fast DDS leaves behind when its process is killed: 16 MiB each time."""

from __future__ import annotations

import fcntl
import os
import re
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_NAME = re.compile(r"^(?:sem\.)?(?P<stem>fast(?:dds|rtps)_(?:port)?[0-9a-f]+)(?:_(?:el|sl|mutex))?$")
_LOCKS = ("_el", "_sl")  # Fast DDS holds one of them locked for as long as its process lives
_SETTLED_S = 2.0  # a younger file may be just about to be locked


def dead_files(folder: Path = SHARED_MEMORY) -> list[Path]:
    """The files of Fast DDS that no living process holds; those of other users are not ours to judge."""
    groups: dict[str, list[Path]] = {}
    for path in folder.glob("*fast*"):
        match = _NAME.match(path.name)
        if match:
            groups.setdefault(match["stem"], []).append(path)
    return sorted(path for files in groups.values() if not any(map(_is_held, files)) for path in files)


def remove_dead_files(folder: Path = SHARED_MEMORY) -> list[Path]:
    """Delete them. Any launcher may: nobody can use them again."""
    removed = []
    for path in dead_files(folder):
        try:
            path.unlink()
        except OSError:  # another launcher was faster, or the file is not ours after all
            continue
        removed.append(path)
    return removed


def _is_held(path: Path) -> bool:
    """Whether the file is too young to tell, or a lock that a process holds; Fast DDS asks in the same way."""
    try:
        if time.time() - path.stat().st_ctime < _SETTLED_S:
            return True
        if not path.name.endswith(_LOCKS):
            return False
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
