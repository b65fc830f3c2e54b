"""A Franka Research 3 (or Panda) with its hand, through franky (extra "franka")."""

from __future__ import annotations

import importlib.util
import logging
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import mujoco
import numpy as np

from pld_core.errors import ConfigError, RobotError, RobotFaultError, RobotUnavailableError
from pld_core.stations import RobotConfig
from pld_ros.drivers.arm import Pose, Reading
from pld_ros.drivers.franka_hand import SILENCE_S, HandLink
from pld_ros.drivers.franka_link import Link
from pld_ros.drivers.franka_robot import JointGoal, PoseGoal, RobotLink, RobotSettings
from pld_ros.drivers.kinematics import JointMargins
from pld_ros.drivers.real_arm import RealArm

log = logging.getLogger(__name__)

Mode = Literal["position", "impedance"]
Model = Literal["fr3", "panda"]

# The two arms have the same lengths, and differ in where their joints end [rad].
_PANDA_RANGES = (
    (-2.8973, 2.8973),
    (-1.7628, 1.7628),
    (-2.8973, 2.8973),
    (-3.0718, -0.0698),
    (-2.8973, 2.8973),
    (-0.0175, 3.7525),
    (-2.8973, 2.8973),
)
_HOME_S = 60.0  # a radian takes 8 s at a dynamics_factor of 0.05
_HOME_RAD = 0.01  # how far from its goal a joint may come to rest
_SILENCE_S = 1.5  # on the way home; franky itself notices after 1.05 s
_SETTLING_S = 3.0  # for the arm to come to rest, and for the hand to open all the way


def franka(
    station: RobotConfig,
    *,
    model: Model = "fr3",
    mode: Mode = "position",
    dynamics_factor: float = 0.1,
    stiffness_n_m: float = 800.0,
    stiffness_nm_rad: float = 40.0,
    collision_torque_nm: float = 20.0,
    collision_force_n: float = 30.0,
    gripper_speed_m_s: float = 0.1,
    grasp_force_n: float = 20.0,
    tool_length_m: float = 0.1034,
    joint_margin_rad: float = 0.05,
    max_joint_step_rad: float = 0.1,
    connect_timeout_s: float = 5.0,
    max_state_age_ms: float = 100.0,
    max_lead_m: float = 0.03,
    max_lead_rad: float = 0.3,
) -> RealArm:
    """The driver of a station's Franka, not connected yet.

    mode: "position" streams poses to the arm's own stiff controller; "impedance" pulls the tool with a spring of
    stiffness_n_m and stiffness_nm_rad, for tasks in contact. dynamics_factor: share (0 to 1) of the arm's speed,
    acceleration and jerk limits. collision_*: torques of joints [Nm] and forces and torques at the tool [N, Nm]
    beyond which the arm stops by reflex. grasp_force_n: newtons between the fingers. tool_length_m: from the flange
    to the tool centre. joint_margin_rad: how close to its end a joint may come; max_joint_step_rad: how far it may
    move in one command. max_state_age_ms: an older state stops the arm, as does a machine that leaves the thread that
    talks to it without time for so long; the hand, which tells its state seldom, has 300 ms, or this if it is longer.
    max_lead_*: see RealArm. connect_timeout_s: seconds for the control box to answer.
    """
    if len(station.home_joints_rad) != 7:
        raise ConfigError(
            f"home_joints_rad of robot {station.name} must be the 7 joints of a Franka, got {station.home_joints_rad}."
        )
    _check(station, model=(model, Model), mode=(mode, Mode))
    if not 0 < dynamics_factor <= 1:
        raise ConfigError(f"dynamics_factor of robot {station.name} must be in (0, 1], got {dynamics_factor!r}.")
    settings = RobotSettings(
        mode,
        dynamics_factor,
        collision_torque_nm,
        collision_force_n,
        stiffness_n_m,
        stiffness_nm_rad,
        _flange_to_tool(tool_length_m),
        max_state_age_ms / 1e3,
    )
    silence_s = max(SILENCE_S, max_state_age_ms / 1e3)
    margins = _margins(model, tool_length_m, joint_margin_rad, max_joint_step_rad)
    arm = FrankaArm(
        station.address,
        tuple(f"{model}_joint{i}" for i in range(1, 8)),
        margins,
        lambda recover: RobotLink(station.address, settings, recover),
        lambda: HandLink(station.address, station.gripper_open_m, gripper_speed_m_s, grasp_force_n, silence_s),
        connect_timeout_s,
    )
    return RealArm(station, arm, max_state_age_ms=max_state_age_ms, max_lead_m=max_lead_m, max_lead_rad=max_lead_rad)


class FrankaArm:
    """Implements pld_ros.drivers.arm.Arm.

    make_robot, make_hand: new connections, the arm's with or without leaving a fault; timeout_s: see ``franka``.
    """

    def __init__(
        self,
        address: str,
        joint_names: tuple[str, ...],
        margins: JointMargins,
        make_robot: Callable[[bool], RobotLink],
        make_hand: Callable[[], HandLink],
        timeout_s: float,
    ) -> None:
        self.joint_names = joint_names
        self._address, self._margins, self._timeout_s = address, margins, timeout_s
        self._make_robot, self._make_hand = make_robot, make_hand
        self._robot: RobotLink | None = None
        self._hand: HandLink | None = None
        self._started: list[Link] = []  # and not ended yet
        # A thread that is inside of franky when the interpreter ends would abort the process.
        weakref.finalize(self, _ended, self._started, 1.5)

    def connect(self) -> None:
        """See ``Arm.connect``."""
        self._connect(recover=False)

    def recover(self) -> None:
        """See ``Arm.recover``; both connections are made anew, since nothing that is left of the old can be trusted."""
        self._connect(recover=True)

    def read(self) -> Reading:
        robot, hand = self._links()
        measured = robot.measured
        if measured is None:
            raise RobotFaultError(robot.fault or "the Franka has not told its state yet")
        return Reading(
            measured.heard_at,
            measured.joints,
            measured.position,
            measured.quaternion,
            hand.width_m,
            robot.fault or measured.fault or hand.check(measured.heard_at),
        )

    def tool_at(self, joint_positions: np.ndarray) -> np.ndarray:
        return self._margins.pose(joint_positions)[0]

    def reachable(self, joint_positions: np.ndarray, target: Pose, step: np.ndarray) -> float:
        return self._margins.reachable(joint_positions, target, step)

    def follow(self, position: np.ndarray, quaternion: np.ndarray) -> None:
        self._links()[0].go(PoseGoal(position.copy(), quaternion.copy()))

    def grip(self, opened: bool) -> None:
        self._links()[1].grip(opened)

    def halt(self) -> None:
        self._links()[0].go(None)

    def go_home(self, joint_positions: np.ndarray, is_ended: Callable[[], bool]) -> None:
        """See ``Arm.go_home``; returns once the hand rests, too."""
        robot, hand = self._links()
        goal = JointGoal(np.array(joint_positions, np.float64))
        robot.go(goal)
        if not self._wait(lambda: robot.arrived is goal, is_ended, _HOME_S):
            robot.go(None)
            if not is_ended():
                raise RobotFaultError(f"the way home took more than {_HOME_S:.0f} s; check what is in the way")
            return
        # The arm comes after what it was told, and the hand takes its own time.
        self._wait(lambda: _off_rad(robot, goal) < _HOME_RAD and not hand.is_busy, is_ended, _SETTLING_S)
        if not is_ended() and (off_rad := _off_rad(robot, goal)) > _HOME_RAD:
            raise RobotFaultError(f"the way home ended {off_rad:.3f} rad from its goal; check what is in the way")

    def close(self) -> None:
        if not self._let_go():
            log.warning("The Franka at %s does not let go of its connection; it ends with this program.", self._address)

    # -- inside ----------------------------------------------------------------------------------

    def _connect(self, recover: bool) -> None:
        if not self._address:
            raise RobotUnavailableError("The station has no address: enter the control box's host name or IP address.")
        if not self._let_go():
            raise RobotUnavailableError(
                f"An earlier connection to the Franka at {self._address} still waits for an answer: restart the "
                "control box, or this program."
            )
        robot, hand = self._make_robot(recover), self._make_hand()
        try:
            for link in (robot, hand):
                self._started.append(link)
                link.start(self._timeout_s)
        except RobotError:
            self._let_go(0.0)
            raise
        self._robot, self._hand = robot, hand

    def _let_go(self, timeout_s: float = 4.0) -> bool:
        """End all threads; whether they have. A control box takes one connection at a time."""
        self._robot = self._hand = None
        return _ended(self._started, timeout_s)

    def _links(self) -> tuple[RobotLink, HandLink]:
        if self._robot is None or self._hand is None:
            raise RobotUnavailableError(f"there is no connection to the Franka at {self._address}")
        return self._robot, self._hand

    def _wait(self, is_done: Callable[[], bool], is_ended: Callable[[], bool], limit_s: float) -> bool:
        """Whether it was done in time, and before it was ended; raises RobotFaultError on a fault."""
        give_up = time.monotonic() + limit_s
        while not is_done():
            if is_ended() or time.monotonic() > give_up:
                return False
            reading = self.read()
            if reading.fault:
                raise RobotFaultError(reading.fault)
            if time.monotonic() - reading.heard_at > _SILENCE_S:
                raise RobotFaultError("the Franka fell silent on its way home: check its power and its cable")
            time.sleep(0.005)
        return True


def _ended(links: list[Link], timeout_s: float) -> bool:
    """Ask all to end, and drop those that have; whether none is left."""
    give_up = time.monotonic() + timeout_s
    for link in links:
        link.end(0.0)
    links[:] = [link for link in links if not link.end(max(0.0, give_up - time.monotonic()))]
    return not links


def _off_rad(robot: RobotLink, goal: JointGoal) -> float:
    assert robot.measured is not None
    return float(np.abs(robot.measured.joints - goal.positions).max())


def _flange_to_tool(length_m: float) -> np.ndarray:
    """float64 ``[4, 4]``: the hand is mounted at -45 degrees, and its fingers' tips are ``length_m`` out."""
    c, s = np.cos(-np.pi / 4), np.sin(-np.pi / 4)
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, length_m], [0, 0, 0, 1]], np.float64)


def _margins(model: Model, tool_length_m: float, margin_rad: float, max_step_rad: float) -> JointMargins:
    found = importlib.util.find_spec("franky_sim")  # located, not imported: that takes its simulator's packages
    if found is None or not found.submodule_search_locations:
        raise RobotUnavailableError("The Franka's model is missing. Install it: pip install 'pld[franka]'")
    folder = Path(next(iter(found.submodule_search_locations)))
    spec = mujoco.MjSpec.from_file(  # pyright: ignore[reportAttributeAccessIssue]  # of a binary module
        str(folder / "assets" / "fr3.xml")
    )
    joints = [f"fr3_joint{i}" for i in range(1, 8)]
    if model == "panda":
        for name, limits in zip(joints, _PANDA_RANGES):
            spec.joint(name).range = limits
    for key in list(spec.keys):
        spec.delete(key)
    return JointMargins(spec, joints, "hand", (0.0, 0.0, tool_length_m), margin_rad, max_step_rad)


def _check(station: RobotConfig, **choices: tuple[str, object]) -> None:
    for key, (given, literal) in choices.items():
        valid = get_args(literal)
        if given not in valid:
            raise ConfigError(f"{key} of robot {station.name} must be one of {', '.join(valid)}, got {given!r}.")
