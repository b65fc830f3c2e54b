"""Single keys from a terminal."""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Mapping

import numpy as np

from pld_ros.operating.front_ends.base import ACTION_DIM, CLOSE, GRIPPER, KEEP, OPEN, FrontEndError, OperatorEvent

EVENTS: Mapping[str, OperatorEvent] = {
    "r": OperatorEvent.RESET,
    " ": OperatorEvent.START,
    "s": OperatorEvent.SUCCESS,
    "f": OperatorEvent.FAIL,
    "p": OperatorEvent.PAUSE,
    "e": OperatorEvent.ESTOP,
    "\x1b": OperatorEvent.ESTOP,
    "E": OperatorEvent.RELEASE,
}
MOTIONS: Mapping[str, tuple[int, float]] = {  # key -> entry of the action, direction
    "i": (0, +1.0), "k": (0, -1.0), "j": (1, +1.0), "l": (1, -1.0), "u": (2, +1.0), "o": (2, -1.0),
    "U": (3, +1.0), "O": (3, -1.0), "I": (4, +1.0), "K": (4, -1.0), "J": (5, +1.0), "L": (5, -1.0),
}  # fmt: skip
GRIPS: Mapping[str, float] = {"c": CLOSE, "v": OPEN}
HELP = (
    "r reset   SPACE start   s success   f fail   p pause or go on   e or ESC e-stop   E release\n"
    "drive: i/k forward, back   j/l left, right   u/o up, down   with Shift: turn   c/v close, open"
)
# A terminal tells nothing of a key's release, only that it repeats: first after up to half a
# second, then about 30 times a second. So a key moves the arm for a moment, but the human keeps
# the arm until no repetition can come any more.
MOTION_S = 0.12
HOLD_S = 0.7
_ESCAPE = "\x1b"


class Keyboard:
    """The terminal of this process, in a mode that gives keys at once; restored by ``close`` and at exit."""

    def __init__(self, fd: int | None = None, speed: float = 0.5, clock: Callable[[], float] = time.monotonic) -> None:
        self._fd = _terminal() if fd is None else fd
        self._speed, self._clock = speed, clock
        try:
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)  # Ctrl-C goes on to work
        except termios.error as error:
            raise FrontEndError(f"The keyboard front end needs a terminal: {error}. {_NO_TERMINAL}") from error
        atexit.register(self.close)
        self._open = True
        self._pressed: dict[int, tuple[float, float]] = {}  # entry -> direction, until when it moves
        self._hold_until = float("-inf")
        self._gripper = KEEP

    def poll(self) -> list[OperatorEvent]:
        events = []
        for key in _keys(self._read()):
            if key in EVENTS:
                events.append(EVENTS[key])
            elif key in MOTIONS or key in GRIPS:
                self._press(key)
        # What is typed in the fright of an e-stop means nothing.
        return [OperatorEvent.ESTOP] if OperatorEvent.ESTOP in events else events

    def drive(self) -> np.ndarray | None:
        now = self._clock()
        if now >= self._hold_until:
            self._gripper = KEEP
            return None
        motion = np.zeros(ACTION_DIM, np.float32)
        for entry, (direction, until) in self._pressed.items():
            motion[entry] = direction * self._speed if now < until else 0.0
        motion[GRIPPER] = self._gripper
        return motion

    def close(self) -> None:
        if self._open:
            self._open = False
            atexit.unregister(self.close)
            with contextlib.suppress(termios.error):  # the terminal itself may be gone
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def _press(self, key: str) -> None:
        now = self._clock()
        if now >= self._hold_until:
            self._gripper = KEEP
        self._hold_until = now + HOLD_S
        if key in GRIPS:
            self._gripper = GRIPS[key]
        else:
            entry, direction = MOTIONS[key]
            self._pressed[entry] = (direction, now + MOTION_S)

    def _read(self) -> str:
        try:
            if not select.select([self._fd], [], [], 0.0)[0]:
                return ""
            data = os.read(self._fd, 1024)
        except OSError as error:
            raise FrontEndError(f"The terminal of the keyboard is gone ({error.strerror}).") from error
        if not data:
            raise FrontEndError("The terminal of the keyboard is gone (it was closed).")
        return data.decode("ascii", "replace")


_NO_TERMINAL = "Run `pld operator` in a terminal of your own; it reaches the same node."


def _terminal() -> int:
    if sys.stdin is None or not sys.stdin.isatty():
        raise FrontEndError(f"The keyboard front end needs a terminal and standard input is none. {_NO_TERMINAL}")
    return sys.stdin.fileno()


def _keys(text: str) -> list[str]:
    """Keys in order. Arrows, F1 and their like (Escape, ``[`` or ``O``, parameters, a letter) are left out."""
    keys = []
    while text:
        end = _sequence_end(text)
        if not end:
            keys.append(text[0])
        text = text[max(end, 1) :]
    return keys


def _sequence_end(text: str) -> int:
    """Length of the control sequence that the text starts with, 0 if it is a key; Escape alone is one."""
    if len(text) < 3 or text[0] != _ESCAPE or text[1] not in "[O":
        return 0
    for index in range(2, len(text)):
        if "@" <= text[index] <= "~":
            return index + 1
    return len(text)
