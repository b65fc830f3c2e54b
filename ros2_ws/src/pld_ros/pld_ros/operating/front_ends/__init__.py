"""What an operator holds in the hand: keyboard, gamepad, SpaceMouse. No rclpy here."""

from __future__ import annotations

from pld_core.errors import ConfigError, UnknownNameError
from pld_ros.operating.front_ends.base import FrontEnd

NONE = "none"
NAMES = (NONE, "keyboard", "gamepad", "spacemouse")


def open_front_end(name: str, device: str = "", speed: float = 0.5) -> FrontEnd | None:
    """The front end of this name, or None for ``none``. Raises FrontEndError if its device is not there.

    device: path, empty for the first one found; speed: share of the station's full speed at full deflection.
    """
    if name not in NAMES:
        raise UnknownNameError("front_end", name, NAMES)
    if not 0.0 < speed <= 1.0:
        raise ConfigError(f"speed is {speed}; give more than 0 and at most 1, the share of the station's full speed.")
    if name == "keyboard":
        from pld_ros.operating.front_ends.keyboard import Keyboard

        return Keyboard(speed=speed)
    if name == "gamepad":
        from pld_ros.operating.front_ends.gamepad import Gamepad

        return Gamepad(device, speed=speed)
    if name == "spacemouse":
        from pld_ros.operating.front_ends.spacemouse import SpaceMouse

        return SpaceMouse(device, speed=speed)
    return None
