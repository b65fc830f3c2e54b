"""Gamepads through the joystick interface of Linux (``/dev/input/js*``)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pld_ros.operating.front_ends.base import (
    ACTION_DIM,
    CLOSE,
    GRIPPER,
    KEEP,
    OPEN,
    Device,
    FrontEndError,
    OperatorEvent,
)

_EVENT = struct.Struct("<IhBB")  # milliseconds, value, type, number
_BUTTON, _AXIS, _INITIAL = 0x01, 0x02, 0x80
_FULL = 32767.0
_PERMISSION = "Give this user the right: `sudo usermod -aG input $USER`, then log in again."
_FIND = "Plug it in (a wireless one: switch it on), and load the driver if need be: `sudo modprobe joydev`."


@dataclass(frozen=True)
class AxisUse:
    """One stick moves one entry of the action. scale: action at full deflection, with its sign."""

    axis: int
    entry: int
    scale: float


@dataclass(frozen=True)
class GamepadMap:
    """What sticks and buttons mean; numbers as ``jstest`` shows them. The default is an Xbox pad."""

    axes: tuple[AxisUse, ...] = (
        AxisUse(1, 0, -1.0),  # left stick forward: x
        AxisUse(0, 1, -1.0),  # left stick left: y
        AxisUse(4, 2, -1.0),  # right stick forward: z
        AxisUse(6, 3, 1.0),  # cross, left and right: about x
        AxisUse(3, 5, -1.0),  # right stick left: about z
    )
    gripper_axis: int = 7  # cross: up opens, down closes
    dead_man: int = 5  # RB; nothing moves unless it is held
    dead_zone: float = 0.15  # share of the deflection that counts as none
    events: Mapping[int, OperatorEvent] = field(
        default_factory=lambda: {
            0: OperatorEvent.START,  # A
            1: OperatorEvent.ESTOP,  # B
            2: OperatorEvent.FAIL,  # X
            3: OperatorEvent.SUCCESS,  # Y
            6: OperatorEvent.RESET,  # back
            7: OperatorEvent.PAUSE,  # start
        }
    )  # no RELEASE: a button hit by chance must not end an e-stop


class Gamepad:
    """A gamepad. device: path, empty for the first one; speed: share of full speed at full deflection."""

    def __init__(self, device: str = "", mapping: GamepadMap | None = None, speed: float = 0.5) -> None:
        self._device = Device(Path(device) if device else _first(), "gamepad", _PERMISSION)
        self._map = mapping or GamepadMap()
        self._speed = speed
        self._axes: dict[int, float] = {}
        self._pressed: set[int] = set()
        self._rest = b""
        self._driving = False
        self._gripper = KEEP

    def poll(self) -> list[OperatorEvent]:
        data = self._rest + b"".join(self._device.reads())
        whole = len(data) - len(data) % _EVENT.size
        self._rest = data[whole:]
        events = []
        for _, value, kind, number in _EVENT.iter_unpack(data[:whole]):
            if kind & _AXIS:
                self._axes[number] = value / _FULL
            elif kind & _BUTTON and self._press(number, bool(value), bool(kind & _INITIAL)):
                events.append(self._map.events[number])
        return events

    def drive(self) -> np.ndarray | None:
        if self._map.dead_man not in self._pressed:
            self._driving, self._gripper = False, KEEP
            return None
        motion = np.zeros(ACTION_DIM, np.float32)
        for use in self._map.axes:
            motion[use.entry] += use.scale * self._speed * self._deflection(use.axis)
        cross = self._deflection(self._map.gripper_axis)
        self._gripper = OPEN if cross < -0.5 else CLOSE if cross > 0.5 else self._gripper
        motion[GRIPPER] = self._gripper
        self._driving = self._driving or bool(motion.any())
        return np.clip(motion, -1.0, 1.0) if self._driving else None

    def close(self) -> None:
        self._device.close()

    def _press(self, number: int, down: bool, initial: bool) -> bool:
        """Note it; whether it means something. A button that was down before us counts once it is pressed anew."""
        if not down:
            self._pressed.discard(number)
        elif not initial:
            self._pressed.add(number)
            return number in self._map.events
        return False

    def _deflection(self, axis: int) -> float:
        """In [-1, 1], 0 in the dead zone and continuous at its edge."""
        value = float(np.clip(self._axes.get(axis, 0.0), -1.0, 1.0))
        beyond = max(0.0, abs(value) - self._map.dead_zone) / (1.0 - self._map.dead_zone)
        return beyond if value > 0 else -beyond


def _first(folder: Path = Path("/dev/input")) -> Path:
    found = sorted(folder.glob("js*"))
    if not found:
        raise FrontEndError(f"No gamepad: there is no {folder}/js*. {_FIND}")
    return found[0]
