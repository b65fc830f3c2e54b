"""The connection to a Franka's hand."""

from __future__ import annotations

import time
from typing import Any

from pld_core.errors import RobotFaultError, RobotUnavailableError
from pld_ros.drivers.franka_link import Link, library

SILENCE_S = 0.3  # a real hand tells its state every 10 to 100 ms, whoever asks waits for it; three are missing
_SLACK_S = 2.0  # of a motion, for its acceleration, and for the force of a grasp


class HandLink(Link):
    """Opens and closes the hand as it was last told, one motion after the other.

    The hand has no command that replaces a motion under way; what is asked meanwhile waits for its end (0.8 s at
    0.1 m/s), and only the last of it is done. A hand that is silent for longer than ``silence_s`` or does not end a
    motion is a fault: see ``check``.
    """

    period_s = 0.02

    def __init__(
        self, address: str, open_m: float, speed_m_s: float, force_n: float, silence_s: float = SILENCE_S
    ) -> None:
        super().__init__(address, "hand")
        self._franky, self._open_m, self._speed_m_s, self._force_n = library(), open_m, speed_m_s, force_n
        self._wanted: bool | None = None  # open
        self._done: bool | None = None
        self._future: Any = None
        self._began_at: float | None = None  # the motion under way, monotonic seconds
        self._silence_s, self._longest_s = silence_s, open_m / speed_m_s + _SLACK_S + silence_s  # the latter: a motion
        self.width_m, self.heard_at = 0.0, float("inf")  # inf: not open yet

    @property
    def is_busy(self) -> bool:
        return not self.fault and self._wanted is not None and self._wanted != self._done

    def check(self, now: float) -> str:
        """What is wrong with the hand, empty if nothing. Waits for nothing.

        now: monotonic seconds up to which the arm was heard: when both are silent, or this machine has no time for
        either, that is no fault of the hand.
        """
        silent_s, began_at = now - self.heard_at, self._began_at
        if silent_s > self._silence_s:
            self._fail(
                RobotFaultError(
                    f"the hand has said nothing for {1e3 * silent_s:.0f} ms ({1e3 * self._silence_s:.0f} ms are "
                    "allowed); check its cable at the flange"
                )
            )
        elif began_at is not None and now - began_at > self._longest_s:
            self._fail(
                RobotFaultError(
                    f"the hand has not ended its motion for {now - began_at:.1f} s ({self._longest_s:.1f} s are "
                    "allowed); look what blocks it"
                )
            )
        return self.fault

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
        self.width_m, self.heard_at = max(0.0, float(state.width)), time.monotonic()
        return hand

    def _cycle(self, hand: Any) -> None:
        self.width_m, self.heard_at = max(0.0, float(hand.state.width)), time.monotonic()
        if self._future is not None:
            if not self._future.wait(0.0):
                return
            future, self._future, self._began_at = self._future, None, None
            self._done = self._doing
            future.get()  # raises what went wrong; False: nothing was there to hold, which is no fault
        wanted = None if self.fault else self._wanted  # what was asked before a fault is not done after it
        if wanted is not None and wanted != self._done:
            self._doing, self._began_at = wanted, time.monotonic()
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
            assert self._began_at is not None
            if not future.wait(max(0.0, self._began_at + self._longest_s - time.monotonic())):
                hand.stop()
            future.wait()
            future.get()
