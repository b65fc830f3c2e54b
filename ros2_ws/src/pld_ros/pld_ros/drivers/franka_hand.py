"""The connection to a Franka's hand."""

from __future__ import annotations

from typing import Any

from pld_core.errors import RobotFaultError, RobotUnavailableError
from pld_ros.drivers.franka_link import Link, library


class HandLink(Link):
    """Opens and closes the hand as it was last told, one motion after the other.

    The hand has no command that replaces a motion under way; what is asked meanwhile waits for its end (0.8 s at
    0.1 m/s), and only the last of it is done.
    """

    period_s = 0.02

    def __init__(self, address: str, open_m: float, speed_m_s: float, force_n: float) -> None:
        super().__init__(address, "hand")
        self._franky, self._open_m, self._speed_m_s, self._force_n = library(), open_m, speed_m_s, force_n
        self._wanted: bool | None = None  # open
        self._done: bool | None = None
        self._future: Any = None
        self.width_m = 0.0

    @property
    def is_busy(self) -> bool:
        return not self.fault and self._wanted is not None and self._wanted != self._done

    def grip(self, opened: bool) -> None:
        """Raises RobotFaultError after a fault."""
        if self.fault:
            raise RobotFaultError(self.fault)
        self._wanted = opened
        self._wake.set()

    def _open(self) -> Any:
        hand = self._franky.Gripper(self._address)
        state = hand.state
        if state.max_width < 0.01:
            raise RobotUnavailableError("The Franka's hand does not know its width: home it in Desk, then try again")
        self._open_m = min(self._open_m, state.max_width)
        self.width_m = max(0.0, float(state.width))
        return hand

    def _cycle(self, hand: Any) -> None:
        self.width_m = max(0.0, float(hand.state.width))
        if self._future is not None:
            if not self._future.wait(0.0):
                return
            future, self._future = self._future, None
            self._done = self._doing
            future.get()  # raises what went wrong; False: nothing was there to hold, which is no fault
        wanted = self._wanted
        if wanted is not None and wanted != self._done:
            self._doing = wanted
            self._future = self._started(hand, wanted)

    def _started(self, hand: Any, opened: bool) -> Any:
        if opened:
            return hand.move_async(self._open_m, self._speed_m_s)
        # Whatever is between the fingers is held: any width counts as grasped.
        return hand.grasp_async(0.0, self._speed_m_s, self._force_n, 0.1, 0.1)

    def _leave(self, hand: Any) -> None:
        # Whoever let go of an unfinished future would wait for it, and all other threads with him.
        future, self._future = self._future, None
        if future is not None:
            future.wait()
            future.get()
