"""Outlives a launcher that is killed, and ends what that started: ``python guardian.py`` with a pipe as input.

The launcher writes ``+ID`` for each process group that it starts and ``-ID`` for each that ended. When
the pipe closes, the groups that are left get SIGTERM, in the opposite order of their start, and SIGKILL
a while later. Standard library only, and run by its path, so that it costs next to nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

PATIENCE_S = 5.0
POLL_S = 0.05


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what ends the launcher must not end this one first
    groups: list[int] = []
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.append(group)
        elif group in groups:
            groups.remove(group)
    end(groups)


def end(groups: list[int], patience_s: float = PATIENCE_S) -> None:
    for group in reversed(groups):
        _signal(group, signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and any(_signal(group, 0) for group in groups):
        time.sleep(POLL_S)
    for group in reversed(groups):
        _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    """Whether there was anyone to get it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


if __name__ == "__main__":
    main()
