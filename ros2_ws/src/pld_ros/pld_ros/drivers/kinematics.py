"""How an arm's joints move when its tool does, by the arm's own model."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's binary module has no stubs.

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

_DAMPING = 0.02  # of the inverse, metres or radians per radian


class JointMargins:
    """Keeps an arm's joints clear of their ends, and within their speed, to first order.

    spec: the arm's model; joints: their names, in the arm's order; body, tool_m: the body that carries the tool, and
    the tool centre in its frame ``[3]`` [m]; margin_rad: how close to its end a joint may come; max_step_rad: how far
    a joint may move in one command.
    """

    def __init__(
        self,
        spec: mujoco.MjSpec,
        joints: Sequence[str],
        body: str,
        tool_m: Sequence[float],
        margin_rad: float,
        max_step_rad: float,
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
        self._max_step_rad = max_step_rad
        self._jacobian = np.zeros((6, self._model.nv))

    def reachable(self, joint_positions: np.ndarray, twist: np.ndarray) -> float:
        """See ``Arm.reachable``. A joint beyond its margin may only turn back."""
        change = self._change(joint_positions, twist)
        room = np.where(change > 0, self._high - joint_positions, joint_positions - self._low).clip(0.0)
        size = np.abs(change)
        allowed = np.minimum(room, self._max_step_rad)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(size > allowed, allowed / size, 1.0)
        return float(shares.min())

    def _change(self, joint_positions: np.ndarray, twist: np.ndarray) -> np.ndarray:
        """Of the joints, for a twist of the tool, ``[J]`` [rad]."""
        data, model = self._data, self._model
        data.qpos[self._qpos] = joint_positions
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        point = data.xpos[self._body] + data.xmat[self._body].reshape(3, 3) @ self._tool_m
        mujoco.mj_jac(model, data, self._jacobian[:3], self._jacobian[3:], point, self._body)
        jacobian = self._jacobian[:, self._dofs]
        return jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + _DAMPING**2 * np.eye(6), twist)


def without_shapes(spec: mujoco.MjSpec) -> None:
    """Leave nothing but bodies and joints: meshes take seconds to load."""
    for geom in list(spec.geoms):
        spec.delete(geom)
    for mesh in list(spec.meshes):
        spec.delete(mesh)
    for body in spec.bodies[1:]:
        if body.mass <= 0:
            body.mass, body.inertia = 1.0, [1.0, 1.0, 1.0]  # of what had its mass from its shape
