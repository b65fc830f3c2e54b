"""Writes datasets whose writer is killed at every step of the third episode; used by test_lerobot_readers.py.

    python lerobot_killed.py FOLDER VERSION

Makes FOLDER/step-01, FOLDER/step-02, ... until one is finished; a process of its own writes each.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from test_lerobot import filmed, write

EPISODES = [filmed(k, ticks=4 + k) for k in range(3)]
SPOKEN = "another task"  # of the third episode, so that the table of tasks changes as well


def kill_before(step: int) -> None:
    """From now on, the ``step``-th file that takes its name does not come to it."""
    replace, count = os.replace, 0

    def counted(*names: str) -> None:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*names)

    os.replace = counted  # type: ignore[assignment]


def main(folder: Path, version: str) -> None:
    import dataclasses

    third = dataclasses.replace(EPISODES[2], instruction=SPOKEN)
    for step in range(1, 100):
        child = os.fork()
        if child == 0:
            write(folder / f"step-{step:02d}", EPISODES[:2], version)
            kill_before(step)
            write(folder / f"step-{step:02d}", [third], version)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))
        assert os.WTERMSIG(status) == signal.SIGKILL


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
