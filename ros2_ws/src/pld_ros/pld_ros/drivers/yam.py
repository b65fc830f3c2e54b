"""The driver of I2RT's YAM arms (extra ``yam``)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from pld_core.errors import ConfigError, RobotError
from pld_core.stations import RobotConfig
from pld_ros.drivers.arm import Pose, Reading
from pld_ros.drivers.real_arm import RealArm
from pld_ros.drivers.yam_chain import YamChain
from pld_ros.drivers.yam_kinematics import JOINTS, YamKinematics, imported

GRIPPERS = ("linear_4310", "linear_3507", "crank_4310", "flexible_4310")
_STREAM_S = 0.01  # i2rt does not interpolate; its own loop runs at 250 Hz and more
_ARRIVED_RAD, _ARRIVAL_S = 0.02, 3.0  # how near is home, and how long after the last of the way it may take
_HALT_RAD = 0.05  # how far ahead of a joint its target may rest
_TRIM_PER_S, _TRIM_RAD, _TRIM_FROM_RAD = 3.0, 0.04, 6e-4


class YamArm:
    """Implements pld_ros.drivers.arm.Arm with i2rt.

    A thread streams joint targets at 100 Hz. A new pose is gone to at a steady speed, so that it is reached one
    ``period_s`` later, or later where a joint would turn faster than ``max_joint_speed_rad_s``. Targets lead by as
    much as the joints trail at that speed, and at rest by the little that friction and sag cost (up to 0.04 rad).
    """

    joint_names = JOINTS

    def __init__(
        self,
        chain: YamChain,
        kinematics: Callable[[], YamKinematics],
        *,
        period_s: float,
        gripper_open_m: float,
        max_joint_speed_rad_s: float,
        home_speed_rad_s: float,
        gripper_speed_m_s: float,
        max_gap_s: float,
    ) -> None:
        self._chain, self._make_kinematics = chain, kinematics
        self._period_s, self._open_m, self._max_gap_s = period_s, gripper_open_m, max_gap_s
        self._max_speed, self._home_speed = max_joint_speed_rad_s, home_speed_rad_s
        self._gripper_speed = gripper_speed_m_s / gripper_open_m  # shares of the opening per second
        self._lock = threading.Lock()  # guards what the thread and the callers share: goal, target, speeds, trim
        self._kinematics: YamKinematics | None = None
        self._thread: threading.Thread | None = None
        self._fault = ""

    # -- connection ------------------------------------------------------------------------------

    def connect(self) -> None:
        if self._kinematics is None:
            imported()
            self._kinematics = self._make_kinematics()
        self._chain.open()
        here = self._chain.joints()
        self._goal, self._target = here.copy(), here.copy()  # [7]: where to go, and where on the way to it
        self._grip = float(here[6])
        self._speeds, self._trim = np.zeros(6), np.zeros(6)  # [rad/s] and [rad]
        self._fault, self._ending = "", threading.Event()
        self._thread = threading.Thread(target=self._stream, name="yam stream", daemon=True)
        self._thread.start()

    def recover(self) -> None:
        self.close()
        self.connect()

    def close(self) -> None:
        if self._thread is not None:
            self._ending.set()
            self._thread.join()
            self._thread = None
        self._chain.close()

    @property
    def ik_s(self) -> tuple[float, ...]:
        """Seconds that the joints of each of the last poses took to find; since the first ``connect``."""
        return () if self._kinematics is None else tuple(self._kinematics.took_s)

    # -- measured --------------------------------------------------------------------------------

    def read(self) -> Reading:
        assert self._kinematics is not None
        with self._lock:
            self._chain.look()
        joints = self._chain.joints()
        width = self._open_m * float(np.clip(joints[6], 0.0, 1.0))
        return Reading(self._chain.heard_at, joints[:6], *self._kinematics.pose(joints[:6]), width, self._failure())

    def tool_at(self, joint_positions: np.ndarray) -> np.ndarray:
        assert self._kinematics is not None
        return self._kinematics.pose(joint_positions)[0]

    def reachable(self, joint_positions: np.ndarray, target: Pose, step: np.ndarray) -> float:
        assert self._kinematics is not None
        return self._kinematics.reachable(joint_positions, target, step)

    def _failure(self) -> str:
        if self._thread is not None and not self._thread.is_alive() and not self._fault:
            self._fault = "the thread that streams to the arm has ended"
        return self._chain.fault() or self._fault

    def _require_health(self) -> None:
        if failure := self._failure():
            raise RobotError(f"Nothing was sent: {failure}.")

    # -- commanded -------------------------------------------------------------------------------

    def follow(self, position: np.ndarray, quaternion: np.ndarray) -> None:
        assert self._kinematics is not None
        self._require_health()
        goal = self._kinematics.joints_for(position, quaternion, self._goal[:6])
        with self._lock:
            self._go(goal, self._period_s, self._max_speed)
            self._goal[6] = self._grip  # after a halt, the gripper goes on

    def grip(self, opened: bool) -> None:
        self._require_health()
        with self._lock:
            self._grip = self._goal[6] = float(opened)

    def halt(self) -> None:
        with self._lock:
            measured, here = self._chain.joints()[:6], self._target[:6]
            measured = np.where(np.isfinite(measured), measured, here)  # halted because of it: NaN must not go out
            self._goal[:6] = np.clip(here, measured - _HALT_RAD, measured + _HALT_RAD)
            self._goal[6] = self._target[6]  # what was squeezed stays squeezed
            self._speeds[:] = self._max_speed

    def go_home(self, joint_positions: np.ndarray, is_ended: Callable[[], bool]) -> None:
        with self._lock:
            takes_s = self._go(joint_positions, self._period_s, self._home_speed)
        give_up = time.monotonic() + max(takes_s, 1.0 / self._gripper_speed) + _ARRIVAL_S
        while not self._is_at(joint_positions):
            self._require_health()
            if is_ended():
                return self.halt()
            if time.monotonic() > give_up:
                self.halt()
                raise RobotError(
                    f"The arm has not come home: its joints are at {self._chain.joints()[:6].round(2)} rad."
                )
            time.sleep(_STREAM_S)

    def _is_at(self, joints: np.ndarray) -> bool:
        with self._lock:
            on_way = not np.array_equal(self._goal, self._target)
        return not on_way and bool(np.abs(self._chain.joints()[:6] - joints).max() < _ARRIVED_RAD)

    def _go(self, joints: np.ndarray, at_least_s: float, fastest: float) -> float:
        """All joints arrive at the same time: in so many seconds."""
        way = np.abs(joints - self._target[:6])
        takes_s = max(at_least_s, float(way.max()) / fastest)
        self._goal[:6], self._speeds = joints, way / takes_s
        return takes_s

    # -- the thread ------------------------------------------------------------------------------

    def _stream(self) -> None:
        due = before = time.monotonic()
        try:
            while not self._ending.wait(max(0.0, due - time.monotonic())):
                now = time.monotonic()
                if now - before > self._max_gap_s and not self._fault:
                    self._fault = (
                        f"this machine had no time for the arm for {1e3 * (now - before):.0f} ms "
                        f"({1e3 * self._max_gap_s:.0f} ms are allowed); end other programs, or allow real-time "
                        "priority, then press and release the emergency stop"
                    )
                self._advance(min(now - before, 2 * _STREAM_S))
                before, due = now, max(due + _STREAM_S, now)  # never a burst
        except Exception as error:  # it would end the thread unseen; every read asks for it
            self._fault = f"the thread that streams to the arm has ended: {type(error).__name__}: {error}"

    def _advance(self, seconds: float) -> None:
        """One step of the targets towards the goal, and out."""
        with self._lock:
            self._chain.look()
            step = np.clip(self._goal - self._target, -(stride := self._strides(seconds)), stride)
            self._target = self._target + step
            self._take_up_slack(step[:6], seconds)
            sent = self._target.copy()
            sent[:6] += self._chain.lag_s * step[:6] / max(seconds, 1e-3) + self._trim
            self._chain.command(sent)

    def _strides(self, seconds: float) -> np.ndarray:
        """How far each joint and the gripper may go in this time, ``[7]``."""
        return np.append(self._speeds, self._gripper_speed) * seconds

    def _take_up_slack(self, step: np.ndarray, seconds: float) -> None:
        """At rest, lead by what keeps a joint off its target."""
        if step.any():
            return
        missing = self._target[:6] - self._chain.joints()[:6]
        grown = self._trim + _TRIM_PER_S * seconds * np.where(np.abs(missing) > _TRIM_FROM_RAD, missing, 0.0)
        self._trim = np.clip(grown, -_TRIM_RAD, _TRIM_RAD)


def yam(
    station: RobotConfig,
    *,
    arm_type: str = "yam",
    gripper_type: str = "linear_4310",
    tool_offset_m: float = 0.134,
    gripper_limits_rad: tuple[float, float] | None = None,
    gravity_comp_factor: tuple[float, ...] | None = None,
    tool_mass_kg: float | None = None,
    max_joint_speed_rad_s: float = 1.5,
    home_speed_rad_s: float = 0.6,
    gripper_speed_m_s: float = 0.2,
    joint_margin_rad: float = 0.05,
    max_state_age_ms: float = 100.0,
    state_rate_hz: float = 50.0,
    max_lead_m: float = 0.03,
    max_lead_rad: float = 0.3,
) -> RealArm:
    """The driver of a station whose ``address`` is a CAN channel such as can0. Not connected.

    arm_type: yam, yam_pro, yam_ultra, yam_ultra_2 or big_yam; gripper_type: one of GRIPPERS.
    tool_offset_m: from the gripper's flange to the tool centre, along the fingers.
    gripper_limits_rad: angles of the gripper's motor when closed and when open, in its own count; None: found at
    connecting, by moving the gripper to both ends.
    gravity_comp_factor: of each joint's computed gravity torque, [6]; None: the vendor's. tool_mass_kg: of the gripper
    with what is mounted on it; None: the gripper's alone.
    joint_margin_rad: how close to its end a joint may come. max_state_age_ms: an older state stops the arm, as does a
    machine that leaves the streaming thread without time for so long. The rest as in RealArm.
    """
    if "can" not in station.address:
        raise ConfigError(f"address of {station.name} must be a CAN channel such as can0, got {station.address!r}.")
    if len(station.home_joints_rad) != len(JOINTS):
        raise ConfigError(f"home_joints_rad of {station.name} must be 6 angles, got {station.home_joints_rad}.")
    if gripper_type not in GRIPPERS:
        raise ConfigError(f"gripper_type of {station.name} must be one of {GRIPPERS}, got {gripper_type!r}.")
    for name, factors in (("gravity_comp_factor", gravity_comp_factor), ("gripper_limits_rad", gripper_limits_rad)):
        wanted = 6 if name == "gravity_comp_factor" else 2
        if factors is not None and len(factors) != wanted:
            raise ConfigError(f"{name} of {station.name} must be {wanted} numbers or null, got {factors}.")
    period_s = 1.0 / station.rate_hz
    step_rad = max_joint_speed_rad_s * period_s
    arm = YamArm(
        YamChain(station.address, arm_type, gripper_type, gripper_limits_rad, gravity_comp_factor, tool_mass_kg),
        lambda: YamKinematics(arm_type, gripper_type, tool_offset_m, joint_margin_rad, step_rad),
        period_s=period_s,
        gripper_open_m=station.gripper_open_m,
        max_joint_speed_rad_s=max_joint_speed_rad_s,
        home_speed_rad_s=home_speed_rad_s,
        gripper_speed_m_s=gripper_speed_m_s,
        max_gap_s=max_state_age_ms / 1e3,
    )
    return RealArm(
        station,
        arm,
        state_rate_hz=state_rate_hz,
        max_state_age_ms=max_state_age_ms,
        max_lead_m=max_lead_m,
        max_lead_rad=max_lead_rad,
    )
