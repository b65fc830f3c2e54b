"""What tests of the operator's hands share: a clock that is set, a device that is a pipe, motions in short."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

DEAD_MAN, INITIAL = 5, 0x80


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Pipe:
    """A named pipe in a device file's place; as long as it is open, the device is plugged in."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self.fd = os.open(path, os.O_RDWR)

    def send(self, data: bytes) -> None:
        os.write(self.fd, data)

    def button(self, number: int, value: int, kind: int = 1) -> None:
        self.send(struct.pack("<IhBB", 0, value, kind, number))

    def axis(self, number: int, share: float, kind: int = 2) -> None:
        self.send(struct.pack("<IhBB", 0, round(share * 32767), kind, number))

    def unplug(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def moves(motion):
    """``{entry: value}`` of what is not zero, or None."""
    return None if motion is None else {int(i): round(float(motion[i]), 3) for i in np.flatnonzero(motion)}
