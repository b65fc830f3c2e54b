"""A front end that may be missing, unplugged and plugged in again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pld_ros.operating.front_ends import open_front_end
from pld_ros.operating.front_ends.base import FrontEnd, FrontEndError, OperatorEvent


class HeldFrontEnd:
    """Behaves as the front end while that is there, as nobody's hand while it is not. say: hears of changes."""

    def __init__(self, name: str, device: str, speed: float, say: Callable[[str], object]) -> None:
        self.name = name
        self.problem = ""  # why it is not there
        self._device, self._speed, self._say = device, speed, say
        self._held: FrontEnd | None = None
        self.open()

    @property
    def present(self) -> bool:
        return self._held is not None

    def open(self) -> None:
        """Look for the device, if it is not there already."""
        if self._held is not None:
            return
        try:
            self._held = open_front_end(self.name, self._device, self._speed)
        except FrontEndError as error:
            self._lose(error)
            return
        self.problem = ""
        if self._held is not None:
            self._say(f"The {self.name} is ready.")

    def poll(self) -> list[OperatorEvent]:
        if self._held is None:
            return []
        try:
            return self._held.poll()
        except FrontEndError as error:
            self._lose(error)
            return []

    def drive(self) -> np.ndarray | None:
        return None if self._held is None else self._held.drive()

    def close(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def _lose(self, error: FrontEndError) -> None:
        self.close()
        if str(error) != self.problem:
            self._say(f"{error} The services of the operator node work without it.")
        self.problem = str(error)
