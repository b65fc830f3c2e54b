"""i2rt's driver of a YAM, unmodified, and a watch over its background threads."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pld_core.errors import RobotError, RobotUnavailableError
from pld_ros.drivers.yam_kinematics import imported

MOTORS = range(1, 8)  # CAN ids: six joints, then the gripper
_REPLY = 16  # a motor answers with its own id and this
_ENABLE, _CLEAR = bytes([0xFF] * 7 + [0xFC]), bytes([0xFF] * 7 + [0xFB])
_NORMAL = (0, 1)  # disabled, enabled
_RANGE_RAD = 12.5  # of the angle in an answer, to either side
_ATTEMPTS, _ANSWER_S = 5, 0.02  # a motor answers within a millisecond
_JOIN_S = 2.0  # i2rt waits 0.3 s for a motor that does not answer
_SPAN_RAD = 1.0  # the grippers' motors turn by 3 to 7 rad from end to end
_MOVED_RAD = 0.5  # a gripper that was turned further than this while nobody looked has lost its count


class ThreadDeaths:
    """What ends i2rt's threads on one CAN channel: kept here, where it would only be printed otherwise."""

    _watching: ClassVar[list[ThreadDeaths]] = []  # all arms of this process
    _lock = threading.Lock()

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self.reason = ""

    def watch(self) -> None:
        self.reason = ""
        with self._lock:
            if self not in self._watching:
                self._watching.append(self)
            if not isinstance(threading.excepthook, _Hook):
                threading.excepthook = _Hook(threading.excepthook)

    def leave(self) -> None:
        with self._lock:
            if self in self._watching:
                self._watching.remove(self)
            hook = threading.excepthook
            if not self._watching and isinstance(hook, _Hook):  # else somebody else's lies above it, and passes through
                threading.excepthook = hook.others

    @classmethod
    def kept(cls, channels: set[str | None], reason: str) -> bool:
        """Whether somebody watches one of these channels; the first reason counts."""
        with cls._lock:
            watching = [deaths for deaths in cls._watching if deaths._channel in channels]
        for deaths in watching:
            deaths.reason = deaths.reason or reason
        return bool(watching)


class _Hook:
    """One for all arms. What lay below it never changes: hooks that are laid one over another form no ring."""

    def __init__(self, others: Callable[[Any], Any]) -> None:
        self.others = others

    def __call__(self, args: Any) -> None:
        owners = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(args.exc_traceback)]
        if not ThreadDeaths.kept(set(map(_channel_of, owners)), str(args.exc_value)):
            self.others(args)


class YamChain:
    """The motors of one arm: joints ``[7]`` are six angles [rad] and the gripper, 0 (closed) to 1 (open).

    gripper_limits_rad: the gripper motor's angle when closed and when open; None has i2rt find them at the first
    ``open``, by moving the gripper to both ends. No method but ``open`` and ``close`` waits for the bus: i2rt's own
    reading functions do, for 0.3 s when a motor is silent.
    """

    def __init__(
        self,
        channel: str,
        arm_type: str,
        gripper_type: str,
        gripper_limits_rad: tuple[float, float] | None,
        gravity_comp_factor: tuple[float, ...] | None,
        tool_mass_kg: float | None,
    ) -> None:
        self._channel, self._arm_type, self._gripper_type = channel, arm_type, gripper_type
        self._given_limits = None if gripper_limits_rad is None else np.array(gripper_limits_rad)
        self._options = {
            "zero_gravity_mode": True,  # until the first command: nothing is commanded before all is known to be well
            "gravity_comp_factor": None if gravity_comp_factor is None else np.array(gravity_comp_factor),
            "ee_mass": tool_mass_kg,
        }
        self._deaths = ThreadDeaths(channel)
        self._limits, self._gripper_at = self._given_limits, float("nan")
        self._robot: Any = None

    # -- connection ------------------------------------------------------------------------------

    def open(self) -> None:
        """Raises RobotUnavailableError where not all motors answer and are free of faults."""
        imported()
        try:
            for _ in range(_ATTEMPTS):
                self._deaths.watch()
                reason = self._attempt()
                if not reason:
                    break
                self.close()
            else:
                raise RobotUnavailableError(f"The arm on {self._channel} did not start: {reason}")
        except RobotError:
            self.close()
            raise
        except Exception as error:  # i2rt and python-can raise whatever comes up
            self.close()
            raise RobotUnavailableError(f"The arm on {self._channel} did not start: {error}") from error
        info = self._robot.get_robot_info()
        self.lag_s = (info["kd"] / info["kp"])[: len(MOTORS) - 1]  # how far a joint trails its target, per speed
        self._seen, self.heard_at = None, time.monotonic()

    def close(self) -> None:
        """End i2rt's threads and free the bus. The motors keep to their last command until they miss the next one."""
        for _, chain in _threads_on(self._channel):
            chain.running = False
        for thread, chain in list(_threads_on(self._channel)):
            thread.join(_JOIN_S)
            chain.motor_interface.close()
        if self._robot is not None:
            self._gripper_at = float(self._robot.motor_chain.absolute_positions[-1])
            self._robot.close()
            with contextlib.suppress(OSError):
                Path(self._robot.xml_path).unlink()  # i2rt leaves one in /tmp at each start
        self._robot = None
        self._deaths.leave()

    def _attempt(self) -> str:
        """Why another one may succeed; empty once the arm is connected."""
        gripper_at = self._ask_motors()
        try:
            return "" if self._build(gripper_at) else "its gripper moves by itself. Hold it, and try again."
        except AssertionError as silence:  # i2rt allows 50 ms for an answer; a busy machine may take longer
            _free_bus(silence)
            return str(silence) or repr(silence)
        except Exception as error:
            _free_bus(error)
            raise

    def _ask_motors(self) -> float:
        """That all are there and well; the gripper motor's angle. i2rt asks a motor with a lasting error for ever."""
        import can

        try:
            bus = can.Bus(interface="socketcan", channel=self._channel)
        except (can.CanError, OSError, ValueError) as error:
            raise RobotUnavailableError(
                f"The CAN channel {self._channel} cannot be opened ({error}). Plug in the adapter, then do: "
                f"ip link set {self._channel} up type can bitrate 1000000"
            ) from error
        with bus:
            return [self._ask(bus, motor) for motor in MOTORS][-1]

    def _ask(self, bus: Any, motor: int) -> float:
        from i2rt.motor_drivers.utils import MotorErrorCode

        reply = None
        for _ in range(_ATTEMPTS):
            reply = _answer(bus, motor, _ENABLE)
            if reply is not None and reply[0] >> 4 in _NORMAL:
                return (reply[1] << 8 | reply[2]) / 0xFFFF * 2 * _RANGE_RAD - _RANGE_RAD
            if reply is not None:
                _answer(bus, motor, _CLEAR)
        raise RobotUnavailableError(
            f"Motor {motor} of the arm on {self._channel} does not answer. Check the emergency stop, the arm's power, "
            "the CAN cable, and that no other program drives this arm."
            if reply is None
            else f"Motor {motor} of the arm on {self._channel} reports "
            f"'{MotorErrorCode.get_error_message(reply[0] >> 4)}' and cannot be cleared. Switch the arm off, let it "
            "cool down, free its way, and switch it on again."
        )

    def _build(self, gripper_at: float) -> bool:
        """Start i2rt's driver, with the gripper's ends if they are known; False if those have not come out right.

        It shifts a motor that starts beyond half a turn by a whole one, and takes the ends in that shifted count: a
        gripper that still moves may have got there since it was asked.
        """
        from i2rt.robots.utils import ArmType, GripperType

        if self._limits is not self._given_limits and abs(gripper_at - self._gripper_at) > _MOVED_RAD:
            self._limits = None  # the motor was without power, and its count began anew
        arm, gripper = ArmType(self._arm_type), GripperType(self._gripper_type)
        sign = gripper.get_motor_direction(arm)
        shift = 0.0 if abs(gripper_at) <= np.pi else 2 * np.pi * sign * np.sign(gripper_at)
        self._start(arm, gripper, None if self._limits is None else (self._limits - shift) * sign)
        shifted = float(self._robot.motor_chain.motor_offset[-1])
        if self._limits is None:
            ends = np.array(self._robot.get_robot_info()["gripper_limits"])
            if np.ptp(ends) < _SPAN_RAD:
                raise RobotUnavailableError(
                    f"The gripper on {self._channel} found its ends only {np.ptp(ends):.1f} rad of its motor apart. "
                    "Free its way, or give gripper_limits_rad."
                )
            self._limits = ends * sign + shifted
            return True
        return abs(shifted - shift) < 1e-6

    def _start(self, arm: Any, gripper: Any, limits: np.ndarray | None) -> None:
        from i2rt.robots.get_robot import get_yam_robot

        self._robot = get_yam_robot(self._channel, arm, gripper, gripper_limits_override=limits, **self._options)
        self._threads = [thread for thread, _ in _threads_on(self._channel)]
        if reason := self.fault():  # i2rt starts all the same
            raise RobotUnavailableError(f"The arm on {self._channel} did not start: {reason}.")

    # -- at work ---------------------------------------------------------------------------------

    def _working(self) -> Any:
        if (robot := self._robot) is None:
            raise RobotError(f"The arm on {self._channel} is not connected.")
        return robot

    def look(self) -> None:
        """Notice whether the motors have answered since the last look. i2rt's own stamps say when it was asked."""
        state = self._working().motor_chain.state
        if state is not self._seen:
            self._seen, self.heard_at = state, time.monotonic()

    def joints(self) -> np.ndarray:
        """Measured last, however long ago, float64 ``[7]``."""
        angles = np.array([motor.pos for motor in self._working().motor_chain.read_states()])
        return self._working().remapper.to_command_joint_pos_space(angles)

    def command(self, joints: np.ndarray) -> None:
        """Go to these joints ``[7]`` at once: no speed is limited here."""
        self._working().command_joint_pos(joints.copy())  # which clips what it is given in place

    def fault(self) -> str:
        """Why i2rt's threads have ended; empty while they work."""
        if (robot := self._robot) is None:
            return "the arm is not connected"
        dead = [thread for thread in self._threads if not thread.is_alive()]
        if robot.motor_chain.running and not dead and not self._deaths.reason:
            return ""
        if not self._deaths.reason:
            for thread in self._threads:
                thread.join(0.02)  # it may be about to say why
        return f"the arm's motors are no longer driven: {self._deaths.reason or 'their control loop has ended'}"


def _answer(bus: Any, motor: int, data: bytes) -> bytes | None:
    """What a motor answers a frame with; None if it does not."""
    import can

    while bus.recv(0.0) is not None:
        pass  # answers to what was asked before
    give_up = time.monotonic() + _ANSWER_S
    try:
        bus.send(can.Message(arbitration_id=motor, data=data, is_extended_id=False))
        while (left := give_up - time.monotonic()) > 0:
            reply = bus.recv(left)
            if reply is not None and reply.arbitration_id == motor + _REPLY and len(reply.data) == 8:
                return bytes(reply.data)
    except can.CanError:
        return None
    return None


def _free_bus(error: Exception) -> None:
    """Close the bus that i2rt leaves open where it gives up before it has started a thread."""
    from i2rt.motor_drivers.can_interface import CanInterface

    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, CanInterface) and hasattr(owner, "use_buffered_reader"):  # else it has no bus yet
            owner.close()


def _threads_on(channel: str) -> Iterator[tuple[threading.Thread, Any]]:
    """i2rt's threads on a CAN channel, each with its motor chain. It keeps no list of them itself."""
    for thread in threading.enumerate():
        owner = getattr(getattr(thread, "_target", None), "__self__", None)
        if _channel_of(owner) == channel:
            yield thread, getattr(owner, "motor_chain", owner)


def _channel_of(owner: Any) -> str | None:
    """Of one of i2rt's robots or motor chains; None of anything else."""
    chain = getattr(owner, "motor_chain", owner)
    return getattr(chain, "channel", None) if hasattr(chain, "motor_list") else None
