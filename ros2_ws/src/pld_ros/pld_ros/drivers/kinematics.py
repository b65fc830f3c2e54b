"""How an arm's joints move when its tool does, by the arm's own model."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's binary module has no stubs.

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from pld_core.control import rotations
from pld_ros.drivers.target import Pose, way

_DAMPING = 0.02  # of the inverse, metres or radians per radian


class JointMargins:
    """Keeps an arm's joints clear of their ends, and within their speed, to first order.

    spec: the arm's model; joints: their names, in the arm's order; body, tool_m, tool_quat: the body that carries the
    tool, and the tool centre in its frame, ``[3]`` [m] and ``[4]`` (w, x, y, z); margin_rad: how close to its end a
    joint may come; max_step_rad: how far a joint may move in one command.
    """

    def __init__(
        self,
        spec: mujoco.MjSpec,
        joints: Sequence[str],
        body: str,
        tool_m: Sequence[float],
        margin_rad: float,
        max_step_rad: float,
        tool_quat: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
    ) -> None:
        without_shapes(spec)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        found = [self._model.joint(name) for name in joints]
        self._qpos = np.array([joint.qposadr[0] for joint in found])
        self._dofs = np.array([joint.dofadr[0] for joint in found])
        limits = np.array([self._model.jnt_range[joint.id] for joint in found])
        self._low, self._high = limits[:, 0] + margin_rad, limits[:, 1] - margin_rad
        self._body, self._tool_m = self._model.body(body).id, np.array(tool_m, np.float64)
        self._tool_quat = np.array(tool_quat, np.float64)
        self._max_step_rad = max_step_rad
        self._jacobian = np.zeros((6, self._model.nv))

    def pose(self, joint_positions: np.ndarray) -> Pose:
        """Of the tool centre in the base frame, ``[3]`` [m] and ``[4]`` (w, x, y, z), for joints ``[J]`` [rad]."""
        data = self._data
        data.qpos[self._qpos] = joint_positions
        mujoco.mj_kinematics(self._model, data)
        point = data.xpos[self._body] + data.xmat[self._body].reshape(3, 3) @ self._tool_m
        return point, rotations.multiply(data.xquat[self._body], self._tool_quat)

    def reachable(self, joint_positions: np.ndarray, target: Pose, step: np.ndarray) -> float:
        """See ``Arm.reachable``. A joint that is being led beyond its margin may only turn back.

        How far the target leads is told by the joints: the pose that an arm tells need not be of the same instant.
        """
        here = self.pose(joint_positions)
        ahead, more = self._changes(here[0], np.stack([way(here, target), step], axis=1)).T
        led = joint_positions + ahead
        allowed = np.where(more > 0, self._high - led, led - self._low).clip(0.0, self._max_step_rad)
        size = np.abs(more)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(size > allowed, allowed / size, 1.0)
        return float(shares.min())

    def _changes(self, point: np.ndarray, twists: np.ndarray) -> np.ndarray:
        """Of the joints, where they are, for twists ``[6, N]`` of the tool at this point ``[3]``: ``[J, N]`` [rad]."""
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jac(self._model, self._data, self._jacobian[:3], self._jacobian[3:], point, self._body)
        jacobian = self._jacobian[:, self._dofs]
        return jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + _DAMPING**2 * np.eye(6), twists)


def without_shapes(spec: mujoco.MjSpec) -> None:
    """Leave nothing but bodies and joints: meshes take seconds to load."""
    for geom in list(spec.geoms):
        spec.delete(geom)
    for mesh in list(spec.meshes):
        spec.delete(mesh)
    for body in spec.bodies[1:]:
        if body.mass <= 0:
            body.mass, body.inertia = 1.0, [1.0, 1.0, 1.0]  # of what had its mass from its shape
