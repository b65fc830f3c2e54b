"""Rotation vectors and quaternions (w, x, y, z), float64."""

from __future__ import annotations

import mujoco
import numpy as np

IDENTITY = (1.0, 0.0, 0.0, 0.0)


def quat_from_rotvec(rotvec: np.ndarray) -> np.ndarray:
    angle = float(np.sqrt(rotvec @ rotvec))
    quat = np.array(IDENTITY)
    if angle > 1e-12:
        mujoco.mju_axisAngle2Quat(quat, rotvec / angle, angle)
    return quat


def quat_from_yaw(yaw: float) -> np.ndarray:
    return np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])


def multiply(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    product = np.empty(4)
    mujoco.mju_mulQuat(product, first, second)
    return product


def rotvec_between(target: np.ndarray, current: np.ndarray) -> np.ndarray:
    """The rotation vector, in the fixed frame, that turns ``current`` into ``target`` [rad]."""
    inverse, rotvec = np.empty(4), np.empty(3)
    mujoco.mju_negQuat(inverse, current)
    mujoco.mju_quat2Vel(rotvec, multiply(target, inverse), 1.0)
    return rotvec


def quat_from_matrix(flat_matrix: np.ndarray) -> np.ndarray:
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, flat_matrix)
    return quat


def yaw_of(flat_matrix: np.ndarray) -> float:
    """Heading of a frame's x axis in the horizontal plane [rad]."""
    return float(np.arctan2(flat_matrix[3], flat_matrix[0]))


def wrap(angle: float, period: float = 2 * np.pi) -> float:
    """The angle's representative nearest zero, for things that look the same every ``period``."""
    return float(angle - period * np.round(angle / period))


def tilt_to_upright(axis: np.ndarray) -> np.ndarray:
    """Rotation [2] about x and y [rad] that turns the unit vector ``axis`` into (0, 0, 1), for small tilts."""
    return np.array([axis[1], -axis[0]])
