"""Becomes another program that ends with its launcher: ``python starter.py PARENT NICE PROGRAM ...``.

Standard library only, and run by its path: it executes the program before any package is imported.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, nice, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            sys.exit("the launcher is gone")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it, and so would this one
    if nice:
        os.nice(nice)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"error: cannot start {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
