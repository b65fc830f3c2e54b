"""One driver for every arm that is not simulated."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from pld_core.control import limits_of
from pld_core.errors import RobotError, RobotFaultError
from pld_core.stations import RobotConfig
from pld_core.types import ActionSpec, RobotMode, RobotState
from pld_ros.drivers.arm import Arm, Pose, Reading
from pld_ros.drivers.commands import checked_action, checked_seed
from pld_ros.drivers.readings import nonsense_in, silence_of, state_of
from pld_ros.drivers.stamps import stamp_of
from pld_ros.drivers.steering import Steering
from pld_ros.drivers.way_home import obstacle_on_way_home


class RealArm:
    """Implements pld_core.interfaces.RobotDriver with an ``Arm``.

    Deltas add up to a target pose of the driver's own, so that an arm that lags or is blocked does not make it drift;
    the target stays within ``max_lead_m`` and ``max_lead_rad`` of what is measured, so that pressing on something
    winds up no force. Every command passes the station's limits (workspace, keep-out boxes, tilt), the joints'
    margins and the action's rate; ``limited`` counts what each of them shortened.

    A state older than ``max_state_age_ms`` is a fault, as is what the arm itself reports, and a measurement that cannot
    be (NaN): the arm is told to halt, commands are refused, and states repeat the last sound measurement and say why
    until ``recover``.

    While ``connect``, ``recover`` or ``close`` waits for the arm, which takes it seconds, nobody waits with it: states
    repeat the last measurement and the fault, commands and a second ``connect`` or ``recover`` are refused, and after
    a ``stop`` the arm is stopped when it is back. Only ``close`` waits for what was begun before.

    clock: monotonic seconds; sleep: seconds; time_ns: ROS system time. Tests inject theirs.
    """

    def __init__(
        self,
        station: RobotConfig,
        arm: Arm,
        *,
        state_rate_hz: float = 50.0,
        max_state_age_ms: float = 100.0,
        max_lead_m: float = 0.03,
        max_lead_rad: float = 0.3,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._station, self._arm, self._spec = station, arm, station.action_spec
        self._steering = Steering(limits_of(station), arm, max_lead_m, max_lead_rad)
        self._period_s, self._max_age_s = 1.0 / state_rate_hz, max_state_age_ms / 1e3
        self._clock, self._sleep, self._time_ns = clock, sleep, time_ns
        self._lock = threading.Condition(threading.Lock())  # guards all below, and the arm's calls that do not block
        self._connected = self._stopped = self._homing = False
        self._fault = self._busy = ""  # busy: with what the arm is, while nobody else may call it
        self._resets = self._stops = self._stamp_ns = 0
        self._reading: Reading | None = None
        self._aborted = threading.Event()  # the newest reset
        self._forget()

    @property
    def arm(self) -> Arm:
        return self._arm

    def spec(self) -> ActionSpec:
        return self._spec

    @property
    def limited(self) -> Mapping[str, int]:
        return self._steering.limited

    # -- connection ------------------------------------------------------------------------------

    def connect(self) -> None:
        with self._lock:
            self._refuse_busy()
            if self._connected:
                return
            with self._unlocked("being connected"):
                self._arm.connect()
            self._connected, self._fault, self._reading = True, "", None
            self._forget()

    def close(self) -> None:
        with self._lock:
            while self._busy:
                self._lock.wait()
            if self._connected:
                self._rest()
                self._connected = False
                with self._unlocked("being disconnected"):
                    self._arm.close()

    @contextlib.contextmanager
    def _unlocked(self, busy: str) -> Iterator[None]:
        """Let the lock go while the arm blocks; nothing else calls the arm meanwhile."""
        self._busy = busy
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()
            self._busy = ""
            self._lock.notify_all()

    # -- states ----------------------------------------------------------------------------------

    def next_state(self, timeout_s: float) -> RobotState | None:
        """See RobotDriver; once there is a fault, the last sound measurement, told anew in every period."""
        give_up = self._clock() + timeout_s
        with self._lock:
            self._require_connection()
        while True:
            with self._lock:
                if not self._connected:
                    return None
                now = self._clock()
                due = self._told_at + self._period_s
                if now >= due:
                    reading = self._reading if self._busy else self._observed()
                    if reading is not None and (self._fault or reading.heard_at > self._heard_at):
                        return self._told(reading, now)
                    due = now + self._period_s / 4
            if now >= give_up:
                return None
            self._sleep(max(0.0, min(due, give_up) - now))

    def _observed(self) -> Reading:
        """The newest sound measurement; whatever is wrong with the newest of all becomes the fault."""
        try:
            reading = self._arm.read()
            if nonsense := nonsense_in(reading):
                raise RobotFaultError(nonsense)
        except RobotError as error:
            self._fail(str(error))
            if self._reading is None:
                raise
            return self._reading
        self._reading = reading
        age_s = self._clock() - reading.heard_at
        if reading.fault:
            self._fail(reading.fault)
        elif age_s > self._max_age_s:
            self._fail(silence_of(age_s, self._max_age_s))
        return reading

    def _told(self, reading: Reading, now: float) -> RobotState:
        self._told_at = max(self._told_at + self._period_s, now - self._period_s / 2)  # after a pause, no burst
        self._heard_at = reading.heard_at
        age_s = 0.0 if self._fault else now - reading.heard_at
        self._stamp_ns = stamp_of(age_s, self._time_ns(), self._stamp_ns)
        return state_of(
            reading, self._target, self._arm.joint_names,
            stamp_ns=self._stamp_ns, mode=self._mode(now), fault=self._fault, resets=self._resets,
        )  # fmt: skip

    def _mode(self, now: float) -> RobotMode:
        if self._fault:
            return "fault"
        if self._stopped:
            return "stopped"
        if now - self._moved_at < 1.5 / self._spec.rate_hz or self._homing:
            return "moving"
        return "holding" if self._resets else "idle"

    # -- commands --------------------------------------------------------------------------------

    def command(self, delta: np.ndarray, gripper: float) -> np.ndarray:
        wanted = checked_action(delta, gripper)
        with self._lock:
            self._require_readiness()
            reading = self._observed()
            self._refuse_fault()
            now = self._clock()
            self._target, action = self._steering.led(wanted, self._target or reading.pose, reading, now)
            self._follow(action)
            self._moved_at = now
            return action

    def _follow(self, action: np.ndarray) -> None:
        assert self._target is not None
        try:
            self._arm.follow(*self._target)
            opened = bool(action[6] > 0)
            if opened != self._opened:
                self._arm.grip(opened)
                self._opened = opened
        except RobotError as error:
            self._fail(str(error))
            raise

    def leave_grip(self, opened: bool) -> None:
        """Take the gripper for opened, or closed, without telling it so: it stays as it is until told the opposite."""
        with self._lock:
            self._opened = opened

    def hold(self) -> None:
        with self._lock:
            self._aborted.set()
            self._rest()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            self._stops += 1
            self._aborted.set()
            self._rest()

    def recover(self) -> None:
        """Raises RobotError, and stays in its fault, where the arm does not come back."""
        with self._lock:
            self._refuse_busy()
            before = self._stops
            if self._fault and self._connected:
                with self._unlocked("being recovered"):
                    self._arm.recover()
                self._forget()
            self._stopped, self._fault = self._stops > before, ""

    def reset(self, seed: int) -> None:
        """Open the gripper and go to the station's ``home_joints_rad``; the seed names the scene for people only.

        Raises RobotError, and moves nothing, where the way or its end meets what the station keeps the tool out of.
        """
        checked_seed(seed)
        with self._lock:
            self._require_readiness()
            here = self._observed().joint_positions
            self._refuse_fault()
            if obstacle := obstacle_on_way_home(self._station, here, self._arm.tool_at):
                raise RobotError(f"The arm does not go home: {obstacle}. Nothing was moved.")
            self._arm.grip(True)
            aborted = threading.Event()  # of this reset: a recovery or another one must not revive it
            self._homing, self._aborted, self._target, self._opened = True, aborted, None, True
        try:
            self._arm.go_home(np.array(self._station.home_joints_rad), aborted.is_set)
        except RobotError as error:
            with self._lock:
                if not aborted.is_set():
                    self._fail(str(error))
            raise
        finally:
            self._homing = False
        with self._lock:
            if aborted.is_set():
                raise RobotError("The reset was ended by a hold or an emergency stop; the arm rests where it was.")
            self._resets += 1

    # -- inside ----------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Never fails: who holds or stops an arm that does not answer has done what could be done."""
        moves, self._target, self._moved_at = self._target is not None or self._homing, None, float("-inf")
        if moves and self._connected and not self._busy:
            with contextlib.suppress(RobotError):
                self._arm.halt()

    def _fail(self, reason: str) -> None:
        if not self._fault:
            self._fault = reason
            self._aborted.set()
            self._rest()

    def _forget(self) -> None:
        self._target: Pose | None = None  # where the commands have led
        self._opened: bool | None = None  # as the gripper was last told
        self._moved_at = self._told_at = self._heard_at = float("-inf")

    def _require_connection(self) -> None:
        if not self._connected:
            raise RobotError(f"The arm of {self._station.name} is not connected; call connect() first.")

    def _refuse_busy(self) -> None:
        if self._busy:
            raise RobotError(f"The arm of {self._station.name} is {self._busy}; wait until that is over.")

    def _require_readiness(self) -> None:
        self._require_connection()
        self._refuse_busy()
        if self._stopped:
            raise RobotError("The arm is stopped (emergency stop): nothing was sent. Call recover() when it is safe.")
        if self._homing:
            raise RobotError("The arm is on its way to its start pose: nothing was sent.")
        self._refuse_fault()

    def _refuse_fault(self) -> None:
        if self._fault:
            raise RobotFaultError(f"Nothing was sent: {self._fault}. Call recover() when it is safe.")
