"""Whether the arm did what it was told: an action that it did not execute must not be learnt from as if it had."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pld_msgs.msg import RobotState

from pld_core.errors import ContractError, RobotError
from pld_ros.observations import FUTURE_MS, ObservationBuffer

# Ticks that the controller may skip at a time. The arm then goes on to the target that it has, which is what was
# commanded, and is looked at a period later. From two on, commands are as far apart as the robot node's watchdog
# allows (WATCHDOG_PERIODS): the arm is told to hold, and what is recorded is not what it did.
MAX_SKIPPED = 1


class Obedience:
    """Watches over one episode after another; every check raises RobotError, which voids the episode."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._reset = self._refused = 0  # of the running episode; commands refused before it
        self.forget()

    def begin(self, reset: int, robot: RobotState) -> None:
        """An episode begins: with this reset, and with a state after it."""
        self._reset, self._refused = reset, robot.refused
        self.forget()

    def forget(self) -> None:
        """Periods without a command, until the next one is sent, are none of the episode's."""
        self._commanded = False
        self._held: int | None = None  # as the arm said at the last check; None: it does not count

    def commanded(self) -> None:
        self._commanded = True

    def check_rhythm(self, skipped: int) -> None:
        """skipped: ticks of the controller, before the present one."""
        if self._commanded and skipped > MAX_SKIPPED:
            raise RobotError(
                f"The controller itself came too late: {skipped} ticks were skipped ({MAX_SKIPPED} is tolerated), and "
                f"the arm got no command for {1e3 * (skipped + 1) * self._period_s:.0f} ms. End other programs, or "
                "allow real-time priority."
            )

    def check(self, robot: RobotState) -> None:
        """robot: the newest state."""
        if robot.mode == "stopped":
            raise RobotError("The arm was stopped (emergency stop).")
        if robot.fault:
            raise RobotError(f"The arm reports a fault: {robot.fault}")
        if robot.resets != self._reset:
            raise RobotError("The robot node was restarted, or somebody else had the arm reset.")
        if robot.refused > self._refused:
            raise RobotError("The robot node refused a command; its log says why.")
        if self._held is not None and robot.held > self._held:
            raise RobotError("A command came too late for its period: the arm held instead.")
        self._held = robot.held if self._commanded else None


def refuse_stale(
    buffer: ObservationBuffer, stamps: Mapping[str, int], max_age_ms: Mapping[str, float], period_s: float
) -> None:
    """Raises ContractError where a source is silent, or speaks of the past.

    Judged both by the clock that no jump can fool and by its stamps. max_age_ms: of each source.
    """
    now, old = time.time_ns(), []
    for source, limit_ms in max_age_ms.items():
        silent_ms = 1e3 * buffer.silent_s(source)
        lag_ms = (now - stamps[source]) / 1e6
        most_ms = limit_ms + 1e3 * period_s
        if silent_ms > limit_ms or not -FUTURE_MS <= lag_ms <= most_ms:  # of the future: the clock was set back
            old.append(f"{source} (came {silent_ms:.0f} ms ago, taken {lag_ms:.0f} ms ago, limit {limit_ms:.0f} ms)")
    if old:
        raise ContractError(
            f"The newest data are too old: {', '.join(old)}. Check these sources and the load of this machine; "
            "the limit of a camera is its max_age_ms."
        )
