"""End-effector control: from normalised deltas to joint targets.

The controller accumulates its own target pose (so that a blocked or lagging arm does not make it
drift), keeps that target close to the measured pose (so that pressing on something never winds up
force), and follows it by damped least squares on the commanded joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from pld_core.types import ActionSpec
from pld_sim.tabletop import rotations
from pld_sim.tabletop.models import TOOL_SITE, ArmModel

SUBSTEPS = 25  # physics steps per tick: 20 Hz at a time step of 2 ms
INTERPOLATION = 5  # joint targets move in this many pieces per tick
MAX_LEAD_M = 0.012  # how far the target may run ahead of the measured position
MAX_LEAD_RAD = 0.15
IK_DAMPING = 0.02
POSTURE_GAIN = 0.05  # pull of the redundant joint towards the home posture, per iteration
FINGER_SPEED = 0.2  # metres per second and finger


@dataclass(frozen=True)
class Workspace:
    """The box in the base frame [m] that the tool stays in, and the largest |rotation vector|
    components [rad] relative to the nominal downward pose."""

    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    rotation: tuple[float, float, float] = (0.35, 0.35, 0.8)


class EndEffectorController:
    """Drives one arm in one MjData. All state is set by ``reset``; nothing is shared between lanes."""

    def __init__(self, model: mujoco.MjModel, arm: ArmModel, workspace: Workspace, actions: ActionSpec) -> None:
        self._model, self._arm, self._workspace, self._actions = model, arm, workspace, actions
        self._scratch = mujoco.MjData(model)  # for kinematics of commanded, not measured, joints
        self._site = model.site(TOOL_SITE).id
        joints = [model.joint(name) for name in arm.joints]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dofs = np.array([joint.dofadr[0] for joint in joints])
        self._range = np.array([model.jnt_range[joint.id] for joint in joints])
        self._ctrl = np.array([model.actuator(name).id for name in arm.actuators])
        self._grip = model.actuator(arm.gripper_actuator).id
        self._finger_qpos = [model.joint(name).qposadr[0] for name in arm.fingers]
        self._nominal = np.array(arm.nominal_quat)
        self._home = np.array(arm.home)
        self.joint_names = (*arm.joints, *arm.fingers)
        self._jacobian = np.zeros((6, model.nv))
        self._command = self._home.copy()
        self._finger = 0.0
        self.gripper = -1.0  # the last command, as in an action
        self.target_position = np.zeros(3)
        self.target_quat = self._nominal.copy()

    def place(self, data: mujoco.MjData, position: np.ndarray, rotvec: np.ndarray, finger: float) -> None:
        """Put the arm at a tool pose (part of a reset, never of an episode).

        position: base frame [m]; rotvec: relative to the nominal pose [rad]; finger: joint value [m].
        """
        self.target_position = np.array(position, dtype=float)
        self.target_quat = rotations.multiply(rotations.quat_from_rotvec(np.asarray(rotvec, float)), self._nominal)
        self._command = self._home.copy()
        for _ in range(40):
            self._iterate_ik()
        self._finger = finger
        data.qpos[self._qpos] = self._command
        data.qpos[self._finger_qpos] = finger
        data.ctrl[self._ctrl] = self._command
        data.ctrl[self._grip] = finger

    def measured(self, data: mujoco.MjData) -> tuple[np.ndarray, np.ndarray]:
        """Tool position [m] and orientation (w, x, y, z) in the base frame."""
        return data.site_xpos[self._site].copy(), rotations.quat_from_matrix(data.site_xmat[self._site])

    def gripper_width(self, data: mujoco.MjData) -> float:
        """Opening between the pads [m]."""
        return float(sum(data.qpos[address] for address in self._finger_qpos)) + self._arm.pad_gap

    def joint_positions(self, data: mujoco.MjData) -> np.ndarray:
        """float64: the arm's joints [rad], then the fingers' [m]; names: ``joint_names``."""
        return data.qpos[[*self._qpos, *self._finger_qpos]]

    def proprio(self, data: mujoco.MjData) -> np.ndarray:
        """float32 [13]; see ``PROPRIO_NAMES``."""
        position, quat = self.measured(data)
        return np.concatenate(
            [
                position,
                rotations.rotvec_between(quat, self._nominal),
                [self.gripper_width(data)],
                self.target_position - position,
                rotations.rotvec_between(self.target_quat, quat),
            ]
        ).astype(np.float32)

    def apply(self, data: mujoco.MjData, action: np.ndarray) -> None:
        """Advance the physics by one tick under one action, float [7] in [-1, 1]."""
        self._move_target(data, action)
        self.gripper = float(action[6])
        start, finger_start = self._command.copy(), self._finger
        self._iterate_ik()  # one is enough: 10 mm leave 0.1 mm, which the next tick removes
        finger_goal = self._arm.finger_open if action[6] > 0 else 0.0
        stride = FINGER_SPEED * SUBSTEPS * self._model.opt.timestep
        self._finger += float(np.clip(finger_goal - self._finger, -stride, stride))
        for piece in range(1, INTERPOLATION + 1):
            part = piece / INTERPOLATION
            data.ctrl[self._ctrl] = start + part * (self._command - start)
            data.ctrl[self._grip] = finger_start + part * (self._finger - finger_start)
            mujoco.mj_step(self._model, data, nstep=SUBSTEPS // INTERPOLATION)
        # mj_step leaves positions one step behind the state it integrated to.
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_camlight(self._model, data)

    def _move_target(self, data: mujoco.MjData, action: np.ndarray) -> None:
        position, quat = self.measured(data)
        moved = self.target_position + self._actions.translation_m * action[:3]
        moved = np.clip(moved, self._workspace.lower, self._workspace.upper)
        self.target_position = position + shorten(moved - position, MAX_LEAD_M)

        turn = rotations.quat_from_rotvec(self._actions.rotation_rad * np.asarray(action[3:6], float))
        turned = rotations.multiply(turn, self.target_quat)
        limit = np.array(self._workspace.rotation)
        relative = np.clip(rotations.rotvec_between(turned, self._nominal), -limit, limit)
        turned = rotations.multiply(rotations.quat_from_rotvec(relative), self._nominal)
        lead = shorten(rotations.rotvec_between(turned, quat), MAX_LEAD_RAD)
        self.target_quat = rotations.multiply(rotations.quat_from_rotvec(lead), quat)

    def _iterate_ik(self) -> None:
        """One damped least-squares step of the commanded joints towards the target pose."""
        scratch = self._scratch
        scratch.qpos[self._qpos] = self._command
        mujoco.mj_kinematics(self._model, scratch)
        mujoco.mj_comPos(self._model, scratch)
        mujoco.mj_jacSite(self._model, scratch, self._jacobian[:3], self._jacobian[3:], self._site)
        position, quat = self.measured(scratch)
        error = np.concatenate([self.target_position - position, rotations.rotvec_between(self.target_quat, quat)])
        jacobian = self._jacobian[:, self._dofs]
        gram = jacobian @ jacobian.T + IK_DAMPING**2 * np.eye(6)
        posture = POSTURE_GAIN * (self._home - self._command)
        # Full step to the pose; the posture acts only in what the pose leaves free.
        mujoco.mju_cholFactor(gram, 1e-9)  # a tenth of the time of numpy's solve
        weights = np.empty(6)
        mujoco.mju_cholSolve(weights, gram, error - jacobian @ posture)
        step = jacobian.T @ weights + posture
        self._command = np.clip(self._command + step, self._range[:, 0], self._range[:, 1])


def shorten(vector: np.ndarray, limit: float) -> np.ndarray:
    """The vector, scaled down to length ``limit`` if it is longer."""
    length = float(np.sqrt(vector @ vector))
    return vector if length <= limit else vector * (limit / length)


PROPRIO_NAMES = (
    *(f"tool_{axis}_m" for axis in "xyz"),
    *(f"tool_r{axis}_rad" for axis in "xyz"),
    "gripper_width_m",
    *(f"lead_{axis}_m" for axis in "xyz"),
    *(f"lead_r{axis}_rad" for axis in "xyz"),
)
