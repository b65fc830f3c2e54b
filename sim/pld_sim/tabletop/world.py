"""What a task, its oracle and its environment share: model, data and the arm in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import mujoco
import numpy as np

from pld_core.errors import ContractError, NonFiniteError
from pld_core.types import ActionSpec
from pld_sim.tabletop import rotations
from pld_sim.tabletop.control import EndEffectorController, Workspace
from pld_sim.tabletop.models import TOOL_SITE, ArmModel
from pld_sim.tabletop.scene import CameraPlacement


@dataclass(frozen=True)
class TaskError:
    """Where the target is, seen from the tool (peg tip, connector, fingertips).

    offset: metres, base frame, tool point to target point; yaw: radians the tool has yet to turn;
    tilt: [2] radians about x and y that would stand the tool (or what it holds) upright.
    """

    offset: np.ndarray
    yaw: float
    tilt: np.ndarray

    def grounding(self) -> np.ndarray:
        """float32 [5]: dx, dy, dz in centimetres, sin and cos of the yaw error."""
        return np.array([*(100.0 * self.offset), np.sin(self.yaw), np.cos(self.yaw)], np.float32)


class World:
    """One lane: a MjData of the shared model, and the controller that drives the arm in it."""

    def __init__(self, model: mujoco.MjModel, arm: ArmModel, workspace: Workspace, actions: ActionSpec) -> None:
        self.model, self.arm = model, arm
        self.data = mujoco.MjData(model)
        self.controller = EndEffectorController(model, arm, workspace, actions)
        self._tool = model.site(TOOL_SITE).id

    def clear(self) -> None:
        mujoco.mj_resetData(self.model, self.data)

    def forward(self) -> None:
        mujoco.mj_forward(self.model, self.data)

    def settle(self, ticks: int, gripper: float = -1.0) -> None:
        """Let the physics run while the arm holds still (part of a reset)."""
        hold = np.array([0, 0, 0, 0, 0, 0, gripper])
        for _ in range(ticks):
            self.controller.apply(self.data, hold)

    def set_mocap(self, body: str, position: np.ndarray, yaw: float) -> None:
        index = self.model.body(body).mocapid[0]
        self.data.mocap_pos[index] = position
        self.data.mocap_quat[index] = rotations.quat_from_yaw(yaw)

    def set_free_body(self, joint: str, position: np.ndarray, quat: np.ndarray) -> None:
        address = self.model.joint(joint).qposadr[0]
        self.data.qpos[address : address + 3] = position
        self.data.qpos[address + 3 : address + 7] = quat

    def snapshot(self) -> np.ndarray:
        """float64 [N]: all that pictures depend on, for ``show``."""
        data = self.data
        return np.concatenate([data.qpos, data.mocap_pos.ravel(), data.mocap_quat.ravel()])

    def body_pose(self, body: int) -> tuple[np.ndarray, np.ndarray]:
        """Position [m] and rotation matrix [3, 3] of a body, by id."""
        return self.data.xpos[body], self.data.xmat[body].reshape(3, 3)

    @property
    def tool_position(self) -> np.ndarray:
        return self.data.site_xpos[self._tool]

    @property
    def tool_matrix(self) -> np.ndarray:
        return self.data.site_xmat[self._tool].reshape(3, 3)


def show(snapshot: np.ndarray, model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """Bring ``data`` into the pose of a snapshot, for pictures only: it holds no velocities and no forces."""
    sizes = (model.nq, 3 * model.nmocap, 4 * model.nmocap)
    if np.shape(snapshot) != (sum(sizes),):
        raise ContractError(
            f"A snapshot has shape {np.shape(snapshot)}; this task's are ({sum(sizes)},). Was it made by another task?"
        )
    if not np.isfinite(snapshot).all():
        raise NonFiniteError("A snapshot holds NaN or infinity. Nothing was drawn.")
    joints, positions, quats = np.split(np.asarray(snapshot, np.float64), np.cumsum(sizes)[:2])
    data.qpos[:], data.mocap_pos[:], data.mocap_quat[:] = joints, positions.reshape(-1, 3), quats.reshape(-1, 4)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)  # lights may follow subtree centres
    mujoco.mj_camlight(model, data)


class Task(Protocol):
    """One manipulation task. Stateless: everything that differs between lanes lives in the World."""

    name: str
    instruction: str
    max_steps: int
    workspace: Workspace
    picture: CameraPlacement

    def build(self, visual: bool) -> tuple[mujoco.MjSpec, ArmModel]:
        """The scene; ``visual`` adds what only people look at and changes no joint or contact."""
        ...

    def randomise(self, world: World, rng: np.random.Generator) -> None:
        """Start a fresh episode in an already cleared world."""
        ...

    def error(self, world: World) -> TaskError: ...

    def succeeded(self, world: World) -> bool: ...

    def act(self, world: World) -> np.ndarray:
        """The scripted expert: a smooth function of the state, float32 [7]."""
        ...
