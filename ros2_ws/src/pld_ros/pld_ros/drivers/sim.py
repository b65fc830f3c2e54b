"""The simulated twin of an arm: a task's simulator behind the RobotDriver protocol."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import numpy as np

from pld_core.control import SafetyLimits
from pld_core.errors import RobotError
from pld_core.types import ActionSpec, RobotMode, RobotState
from pld_ros.drivers.commands import checked_action
from pld_ros.drivers.guard import Guard
from pld_ros.drivers.periods import Periods
from pld_ros.drivers.sim_arm import SimulatedArm


class SimDriver:
    """Implements pld_core.interfaces.RobotDriver with an environment of ``pld.tasks``.

    A tick is one period of the action's rate. The command that arrives during a period drives that
    whole tick; a second one is ignored and counted in ``late_commands``. Commands outside of an
    episode (before the first ``reset``, after the end, until the first state of a new episode is due)
    are ignored and counted in ``idle_commands``. An ignored command answers what is executed instead.

    realtime: the state at time t is given when the clock says t, never earlier; a tick without a
    command is one of holding (``held_ticks``), and outside of an episode the last state is repeated
    with new stamps. Nobody asking for states for more than a period stops the simulated world
    (``skipped_periods``): it never catches up in a burst. Stamps are ROS system time.

    Lockstep (``realtime=False``): a command gives the next state at once, without one time stands
    still. A command is then in time when the state before it was given. Stamps count periods from the
    system time of ``connect``, so that time never runs back when the driver is started anew.

    limits: the station's; None leaves the simulator's own.
    clock: monotonic seconds; sleep: seconds; time_ns: ROS system time. Tests inject theirs.
    """

    def __init__(
        self,
        task: str,
        realtime: bool = True,
        *,
        limits: SafetyLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._task, self._realtime = task, realtime
        self._guard = None if limits is None else Guard(limits, by_the_clock=False)  # a period takes one command anyway
        self._clock, self._sleep, self._time_ns = clock, sleep, time_ns
        self._changed = threading.Condition()  # guards all below
        self._arm: SimulatedArm | None = None
        self._spec: ActionSpec | None = None
        self._periods: Periods | None = None  # of real time, while connected
        self._connected = self._stopped = False
        self._forget()
        self._given = self._first_ns = 0
        self.late_commands = self.idle_commands = self.held_ticks = 0

    @property
    def skipped_periods(self) -> int:
        return self._periods.skipped if self._periods else 0

    @property
    def limited(self) -> Mapping[str, int]:
        return {} if self._guard is None else self._guard.limited

    def spec(self) -> ActionSpec:
        with self._changed:
            if self._spec is None:
                self._spec = self._made().spec
            return self._spec

    def connect(self) -> None:
        """Stand in some scene; ``reset`` makes the one of an episode. Does nothing when connected."""
        with self._changed:
            if self._connected:
                return
            arm = self._made()
            arm.park()
            self._forget()
            self._first_ns, self._given = self._time_ns(), 0
            self._periods = Periods(arm.spec.rate_hz, self._clock, self._time_ns) if self._realtime else None
            self._connected = self._fresh = True

    def reset(self, seed: int) -> None:
        """Make the scene of this seed; the next state is the episode's first (tick 0)."""
        with self._changed:
            arm = self._ready_arm()
            arm.reset(seed)
            self._forget()
            self._starting = True
            if not self._realtime:
                self._end_period(arm)

    def next_state(self, timeout_s: float) -> RobotState | None:
        """See RobotDriver; None also when closed meanwhile."""
        with self._changed:
            arm = self._connected_arm()
            if not self._realtime:
                self._changed.wait_for(lambda: self._fresh or not self._connected, timeout_s)
                return self._give(arm) if self._fresh else None
        return self._next_by_the_clock(timeout_s)

    def command(self, delta: np.ndarray, gripper: float) -> np.ndarray:
        """See RobotDriver; the answer is what drives this tick."""
        action = checked_action(delta, gripper)
        with self._changed:
            arm = self._ready_arm()
            self._advance(arm)
            if self._starting or not arm.running:
                self.idle_commands += 1
                return arm.hold_action()
            if self._command is not None or (self._fresh and not self._realtime):
                self.late_commands += 1
                return arm.hold_action() if self._command is None else self._command.copy()
            if self._guard is not None:
                seen = arm.proprio
                action = self._guard.admit(action, seen[:3], seen[3:6], self._clock())
            self._command = action
            if not self._realtime:
                self._end_period(arm)
            return action.copy()

    def hold(self) -> None:
        """Take back the command of this period, if there is one; in lockstep it is executed already."""
        with self._changed:
            self._command = None

    def stop(self) -> None:
        """Works at any time, connected or not."""
        with self._changed:
            self._stopped, self._command = True, None

    def recover(self) -> None:
        with self._changed:
            self._stopped = False

    def close(self) -> None:
        with self._changed:
            if self._arm is not None:
                self._arm.close()
            self._arm, self._connected = None, False
            self._forget()
            self._changed.notify_all()

    def _next_by_the_clock(self, timeout_s: float) -> RobotState | None:
        give_up = self._clock() + timeout_s
        while True:
            with self._changed:
                if self._arm is None or self._periods is None or not self._connected:
                    return None
                self._advance(self._arm)
                if self._fresh:
                    return self._give(self._arm)
                remaining_s = self._periods.remaining_s()
            now = self._clock()
            if now >= give_up:
                return None
            self._sleep(max(0.0, min(remaining_s, give_up - now)))

    def _advance(self, arm: SimulatedArm) -> None:
        """In real time: let the period end that is over, whoever notices first."""
        if self._periods is not None and self._periods.turn():
            self._end_period(arm)

    def _end_period(self, arm: SimulatedArm) -> None:
        """The arm has moved on by one tick, or an episode begins, or nothing happens outside of one."""
        if self._starting:
            self._starting = False
        elif arm.running:
            self._moved = self._command is not None
            arm.step(arm.hold_action() if self._command is None else self._command)
            self.held_ticks += not self._moved
        self._command = None
        self._fresh = True
        self._changed.notify_all()

    def _give(self, arm: SimulatedArm) -> RobotState:
        if self._periods is None:
            stamp_ns = self._first_ns + self._given * round(1e9 / arm.spec.rate_hz)
        else:
            stamp_ns = self._periods.stamp_ns
        self._fresh = False
        self._given += 1
        return arm.state(stamp_ns, self._mode(arm))

    def _mode(self, arm: SimulatedArm) -> RobotMode:
        if self._stopped:
            return "stopped"
        if not arm.running:
            return "idle"
        return "moving" if self._moved else "holding"

    def _forget(self) -> None:
        """No state to give, no command to execute."""
        self._command: np.ndarray | None = None
        self._fresh = False  # the present state was not given yet
        self._starting = False  # the scene is made, its first state is not due yet
        self._moved = False  # in the tick that led to the present state

    def _made(self) -> SimulatedArm:
        if self._arm is None:
            self._arm = SimulatedArm(self._task)
        return self._arm

    def _connected_arm(self) -> SimulatedArm:
        if self._arm is None or not self._connected:
            raise RobotError(f"The simulated arm of {self._task!r} is not connected; call connect() first.")
        return self._arm

    def _ready_arm(self) -> SimulatedArm:
        arm = self._connected_arm()
        if self._stopped:
            raise RobotError("The arm is stopped (emergency stop): nothing was sent. Call recover() when it is safe.")
        return arm
