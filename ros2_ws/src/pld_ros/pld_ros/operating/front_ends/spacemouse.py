"""SpaceMouse of 3Dconnexion, read as raw reports (``/dev/hidraw*``)."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping
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

_TRANSLATION, _ROTATION, _BUTTONS = 1, 2, 3  # report ids
_VENDOR = "256F"  # 3Dconnexion
_LOGITECH = "046D"  # sold them before, and much else, so that the product counts too
_LOGITECH_PRODUCTS = frozenset({"C603", "C605", "C606", "C621", "C623", "C625", "C626", "C627", "C628", "C629", "C62B"})
_PERMISSION = (
    'Give this user the right: write KERNEL=="hidraw*", ATTRS{idVendor}=="256f", MODE="0660", GROUP="plugdev" to '
    "/etc/udev/rules.d/70-spacemouse.rules, run `sudo udevadm control --reload && sudo udevadm trigger`, "
    "and `sudo usermod -aG plugdev $USER`, then log in again."
)
# A pushed cap reports about 60 times a second. Silence means that its radio is out of reach.
STALE_S = 0.3


@dataclass(frozen=True)
class SpaceMouseMap:
    """What cap and buttons mean. The cap's axes are x right, y to the user, z down; the arm's x goes forward."""

    entries: tuple[tuple[int, float], ...] = ((1, -1.0), (0, -1.0), (2, -1.0), (4, -1.0), (3, -1.0), (5, -1.0))
    full: float = 350.0  # what the cap reports at full deflection
    dead_zone: float = 0.08  # share of the deflection that counts as none
    dead_man: int = 0  # left button; nothing moves unless it is held
    gripper: int = 1  # right button: closes, opens, closes ..., in each take-over beginning with closing
    events: Mapping[int, OperatorEvent] = field(default_factory=dict)  # of models with more buttons


class SpaceMouse:
    """A SpaceMouse. device: path, empty for the first one; speed: share of full speed at full deflection."""

    def __init__(
        self,
        device: str = "",
        mapping: SpaceMouseMap | None = None,
        speed: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device = Device(Path(device) if device else _first(), "SpaceMouse", _PERMISSION)
        self._map = mapping or SpaceMouseMap()
        self._speed, self._clock = speed, clock
        self._cap = np.zeros(6)  # as reported
        self._moved_at = float("-inf")
        self._buttons = 0
        self._driving = False
        self._gripper = KEEP

    def poll(self) -> list[OperatorEvent]:
        events: list[OperatorEvent] = []
        for report in self._device.reads():
            if report[0] in (_TRANSLATION, _ROTATION):
                self._move(report)
            elif report[0] == _BUTTONS:
                events += self._press(int.from_bytes(report[1:5], "little"))
        return events

    def drive(self) -> np.ndarray | None:
        if not self._buttons >> self._map.dead_man & 1:
            self._driving, self._gripper = False, KEEP
            return None
        motion = np.zeros(ACTION_DIM, np.float32)
        if self._clock() - self._moved_at < STALE_S:
            motion[:GRIPPER] = self._deflection()
        motion[GRIPPER] = self._gripper
        self._driving = self._driving or bool(motion.any())
        return motion if self._driving else None

    def close(self) -> None:
        self._device.close()

    def _move(self, report: bytes) -> None:
        """Three numbers; newer models send all six in the report of the translation."""
        count = min((len(report) - 1) // 2, 6 if report[0] == _TRANSLATION else 3)
        first = 0 if report[0] == _TRANSLATION else 3
        self._cap[first : first + count] = struct.unpack_from(f"<{count}h", report, 1)
        self._moved_at = self._clock()

    def _press(self, buttons: int) -> list[OperatorEvent]:
        pressed, self._buttons = buttons & ~self._buttons, buttons
        if pressed >> self._map.gripper & 1:
            self._gripper = OPEN if self._gripper == CLOSE else CLOSE
        return [event for number, event in self._map.events.items() if pressed >> number & 1]

    def _deflection(self) -> np.ndarray:
        """``[6]`` in [-1, 1] times speed, in the order of the action."""
        share = np.clip(self._cap / self._map.full, -1.0, 1.0)
        beyond = np.sign(share) * np.maximum(np.abs(share) - self._map.dead_zone, 0.0) / (1.0 - self._map.dead_zone)
        motion = np.zeros(6)
        for value, (entry, sign) in zip(beyond, self._map.entries, strict=True):
            motion[entry] = sign * value * self._speed
        return motion


def _first(devices: Path = Path("/dev"), classes: Path = Path("/sys/class/hidraw")) -> Path:
    for entry in sorted(classes.glob("hidraw*")):
        if _is_spacemouse(entry / "device" / "uevent"):
            return devices / entry.name
    raise FrontEndError(
        f"No SpaceMouse: none of {classes}/hidraw* is a device of 3Dconnexion (USB vendor {_VENDOR.lower()}). "
        "Plug it in; if it is, give its path as the parameter `device`."
    )


def _is_spacemouse(uevent: Path) -> bool:
    """By the line ``HID_ID=<bus>:<vendor>:<product>`` in hexadecimal digits."""
    try:
        lines = uevent.read_text().splitlines()
    except OSError:
        return False
    identity = next((line.removeprefix("HID_ID=") for line in lines if line.startswith("HID_ID=")), "")
    vendor, product = ([part[-4:].upper() for part in identity.split(":")] + ["", ""])[1:3]
    return vendor == _VENDOR or (vendor == _LOGITECH and product in _LOGITECH_PRODUCTS)
