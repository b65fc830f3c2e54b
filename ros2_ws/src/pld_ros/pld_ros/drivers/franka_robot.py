"""The connection to a Franka's arm."""

from __future__ import annotations

import ipaddress
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pld_core.errors import RobotFaultError
from pld_ros.drivers.franka_link import Link, library

log = logging.getLogger(__name__)

_SAME, _THERE = 1e-5, 5e-3  # between goals, and from a goal to the tool: metres, and of a quaternion's entries
_STOPPING_S = 1.2  # libfranka needs 1.05 s to notice that the robot is gone


@dataclass(frozen=True)
class PoseGoal:
    """position ``[3]`` [m] and quaternion ``[4]`` (w, x, y, z) of the tool centre in the base frame."""

    position: np.ndarray
    quaternion: np.ndarray

    def is_near(self, other: PoseGoal | Measured, by: float) -> bool:
        """by: metres, and of a quaternion's entries."""
        off = max(np.abs(self.position - other.position).max(), np.abs(self.quaternion - other.quaternion).max())
        return bool(off < by)


@dataclass(frozen=True)
class JointGoal:
    positions: np.ndarray  # [7] rad


@dataclass(frozen=True)
class Measured:
    """heard_at: monotonic seconds; joints ``[7]`` [rad]; position, quaternion: as in PoseGoal; fault: of the arm."""

    heard_at: float
    joints: np.ndarray
    position: np.ndarray
    quaternion: np.ndarray
    fault: str


@dataclass(frozen=True)
class RobotSettings:
    """See ``pld_ros.drivers.franka.franka``; flange_to_tool: float64 ``[4, 4]``."""

    mode: Literal["position", "impedance"]
    dynamics_factor: float
    collision_torque_nm: float
    collision_force_n: float
    stiffness_n_m: float
    stiffness_nm_rad: float
    flange_to_tool: np.ndarray
    max_gap_s: float  # in which nothing was done for the arm


class RobotLink(Link):
    """Goes to the newest goal, however it was moving before. Opening it moves nothing.

    recover: clear the arm's errors when opening.
    """

    def __init__(self, address: str, settings: RobotSettings, recover: bool = False) -> None:
        super().__init__(address, "arm")
        self._settings, self._recover, self._franky = settings, recover, library()
        self._goal: PoseGoal | JointGoal | None = None  # written by others; replaced, never changed
        self._given: PoseGoal | JointGoal | None = None  # what the arm was last told
        self._stopping = False
        self._tracker: Any = None
        self._time_ms: int | None = None
        self._gap_s = self._cycled_at = 0.0  # without a cycle at the longest; the newest one, monotonic
        self.measured: Measured | None = None
        self.arrived: JointGoal | None = None  # the last one whose motion has ended

    def go(self, goal: PoseGoal | JointGoal | None) -> None:
        """Replace the goal; None: come to rest. Raises RobotFaultError after a fault."""
        if self.fault and goal is not None:
            raise RobotFaultError(self.fault)
        if isinstance(goal, PoseGoal) and self._is_there(goal):
            return  # franky would plan anew; of a way of nothing its planner fails now and then (error -111)
        self._goal = goal
        self._wake.set()

    def _is_there(self, goal: PoseGoal) -> bool:
        """Whether this goal is the present one, and reached. One that is not is gone to again: that shows a failure."""
        present, measured = self._goal, self.measured
        if not isinstance(present, PoseGoal) or measured is None:
            return False
        return goal.is_near(present, _SAME) and goal.is_near(measured, _THERE)

    def _fail(self, error: Exception) -> None:
        super()._fail(error)
        self._goal = None

    def _open(self) -> Any:
        franky, settings = self._franky, self._settings
        robot = franky.Robot(self._address, realtime_config=realtime_config(franky, self._address))
        if self._recover and not robot.recover_from_errors():
            raise RobotFaultError("The arm did not recover from its errors: look at Desk, and free or restart the arm")
        robot.relative_dynamics_factor = settings.dynamics_factor
        robot.set_collision_behavior([settings.collision_torque_nm] * 7, [settings.collision_force_n] * 6)
        # Whatever is configured in Desk as the end effector, the tool centre is where the settings say.
        self._ee_to_tool = robot.state.F_T_EE.inverse * franky.Affine(settings.flange_to_tool)
        self._tool_to_ee = self._ee_to_tool.inverse
        self._observe(robot)
        self._cycled_at = time.monotonic()
        return robot

    def _cycle(self, robot: Any) -> None:
        if self._is_starved(robot):
            return
        self._steer(robot)
        robot.poll_motion()  # raises what has ended the motion
        if isinstance(self._given, JointGoal) and not robot.is_in_control:
            self.arrived = self._given
        self._observe(robot)

    def _is_starved(self, robot: Any) -> bool:
        """Whether this thread had no time, or waited for franky, and what becomes of the motion is not known yet.

        Told here, or nobody would know: once a new state is there, none is old any more.
        """
        now = time.monotonic()
        gap_s, self._cycled_at = now - self._cycled_at, now
        if not robot.is_in_control:
            return False  # no motion to leap: the next state says all there is, as while a station starts its programs
        self._gap_s = max(self._gap_s, gap_s)
        if self.fault or self._gap_s <= self._settings.max_gap_s:
            return False
        before = self._time_ms
        robot.poll_motion()
        self._observe(robot)
        if self._time_ms != before:  # it is the arm that has waited, not the other way round
            self._fail(
                RobotFaultError(
                    f"this machine had no time for the arm for {1e3 * self._gap_s:.0f} ms "
                    f"({1e3 * self._settings.max_gap_s:.0f} ms are allowed); end other programs, or allow real-time "
                    "priority, then press and release the emergency stop"
                )
            )
            # franky makes up for the lost time by a leap. No motion may be planned from the speed of that.
            robot.stop()
        return True

    def _steer(self, robot: Any) -> None:
        goal = self._goal
        if goal is self._given:
            return
        signal = robot.current_control_signal_type if robot.is_in_control else None
        if signal is not None and (goal is None or signal != self._signal_of(goal)):
            # The kind of signal cannot change in motion: rest first; a goal is looked at again in the next cycle.
            if not self._stopping:
                robot.move(self._stop_motion(signal), asynchronous=True)
                self._stopping, self._tracker = True, None
            self._given = None
            return
        self._stopping = False
        if goal is not None:
            self._move(robot, goal, signal is not None)
        self._given = goal

    def _move(self, robot: Any, goal: PoseGoal | JointGoal, in_motion: bool) -> None:
        franky, settings = self._franky, self._settings
        if isinstance(goal, JointGoal):
            robot.move(franky.JointMotion(goal.positions), asynchronous=True)
            return
        w, x, y, z = goal.quaternion
        pose = franky.Affine(goal.position, np.array([x, y, z, w])) * self._tool_to_ee
        if settings.mode == "position":
            motion = franky.CartesianMotion(pose, franky.ReferenceType.Absolute, return_when_finished=False)
            robot.move(motion, asynchronous=True)
            return
        if self._tracker is None or not in_motion:
            self._tracker = franky.CartesianImpedanceTracker(
                robot,
                translational_stiffness=settings.stiffness_n_m,
                rotational_stiffness=settings.stiffness_nm_rad,
            )
        self._tracker.set_target(pose)

    def _signal_of(self, goal: PoseGoal | JointGoal) -> Any:
        kinds = self._franky.ControlSignalType
        if isinstance(goal, JointGoal):
            return kinds.JointPositions
        return kinds.CartesianPose if self._settings.mode == "position" else kinds.Torques

    def _stop_motion(self, signal: Any) -> Any:
        franky = self._franky
        if signal == franky.ControlSignalType.Torques:
            return franky.TorqueStopMotion()
        if signal == franky.ControlSignalType.JointPositions:
            return franky.JointStopMotion()
        return franky.CartesianStopMotion()

    def _observe(self, robot: Any) -> None:
        state = robot.state
        time_ms = state.time.to_msec()
        if time_ms == self._time_ms:  # in motion franky repeats the last state for as long as none arrives
            return
        self._time_ms = time_ms
        tool = state.O_T_EE * self._ee_to_tool
        x, y, z, w = tool.quaternion
        quaternion = np.array([w, x, y, z], np.float64)
        self.measured = Measured(
            time.monotonic(),
            np.array(state.q, np.float64),
            np.array(tool.translation, np.float64),
            quaternion / np.linalg.norm(quaternion),
            self._fault_of(state),
        )

    def _fault_of(self, state: Any) -> str:
        mode, modes = state.robot_mode, self._franky.RobotMode
        if mode == modes.UserStopped:
            return "the Franka's own stop is pressed: release it, and open the brakes in Desk if they have closed"
        if mode == modes.Guiding:
            return "the Franka is being guided by hand: let go of its buttons"
        errors = str(state.current_errors)  # a list in brackets; as a bool it is always true
        if mode == modes.Reflex or errors != "[]":
            return f"the Franka stopped by reflex {errors}: free the arm if it touches something"
        return ""

    def _leave(self, robot: Any) -> None:
        self._goal, self._stopping = None, False
        give_up = time.monotonic() + _STOPPING_S
        while robot.is_in_control and time.monotonic() < give_up:
            self._steer(robot)
            time.sleep(self.period_s)
        self._tracker = None  # it holds the robot
        robot.poll_motion()


def realtime_config(franky: Any, address: str) -> Any:
    """Enforce where this process may run in real time on a real-time kernel; else Ignore, with a warning."""
    if _is_loopback(address):
        return franky.RealtimeConfig.Ignore
    if _has_real_time():
        return franky.RealtimeConfig.Enforce
    log.warning(
        "No real-time kernel, or no permission to use it (`ulimit -r` is to say 99): the Franka may stop with "
        "'communication_constraints_violation' when this machine is busy."
    )
    return franky.RealtimeConfig.Ignore


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _has_real_time() -> bool:
    """Whether libfranka can enforce it: it demands a PREEMPT_RT kernel and the highest priority."""
    try:
        if Path("/sys/kernel/realtime").read_text().strip() != "1":
            return False
        policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(os.sched_get_priority_max(os.SCHED_FIFO)))
        os.sched_setscheduler(0, policy, priority)
    except OSError:
        return False
    return True
