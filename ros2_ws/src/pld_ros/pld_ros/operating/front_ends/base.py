"""What all front ends have in common, and reading from a device file without waiting."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np

from pld_core.errors import PLDError

ACTION_DIM = 7  # delta xyz, delta rotation vector, gripper
GRIPPER = 6
OPEN, CLOSE, KEEP = 1.0, -1.0, 0.0  # what a human wants of the gripper; KEEP: as it is
_READS = 256  # at most so many at once, so that a device that floods us cannot stop the node
_READ_BYTES = 4096


class OperatorEvent(StrEnum):
    """What an operator can say with one key or button."""

    RESET = "reset"
    START = "start"
    SUCCESS = "success"
    FAIL = "fail"
    PAUSE = "pause"  # or go on, if paused
    ESTOP = "estop"
    RELEASE = "release"


class FrontEndError(PLDError):
    """A front end's device is not there, may not be read, or was unplugged."""


class FrontEnd(Protocol):
    """One device in the operator's hand. After a FrontEndError it is of no more use."""

    def poll(self) -> list[OperatorEvent]:
        """What was pressed since the last call. Never waits. Raises FrontEndError if the device is gone."""
        ...

    def drive(self) -> np.ndarray | None:
        """How the human moves the arm now, None if not at all.

        float32 ``[7]``: delta xyz and delta rotation vector in [-1, 1], units and frame of the
        station's action; gripper OPEN, CLOSE or KEEP. Zeros: the human holds the arm still.
        """
        ...

    def close(self) -> None:
        """Give the device back as it was found."""
        ...


class Device:
    """A character device, read without waiting. what: its name in messages; hint: what to do if it cannot be opened."""

    def __init__(self, path: Path, what: str, hint: str) -> None:
        self._name = f"{what} at {path}"
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise FrontEndError(f"The {self._name} cannot be read: {error.strerror}. {hint}") from error

    def reads(self) -> list[bytes]:
        """What came since the last call, one entry for each report of the device."""
        found: list[bytes] = []
        while len(found) < _READS:
            try:
                data = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                raise FrontEndError(f"The {self._name} is gone ({error.strerror}).") from error
            if not data and not found:
                raise FrontEndError(f"The {self._name} is gone (it ended).")
            if not data:
                break
            found.append(data)
        return found

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
