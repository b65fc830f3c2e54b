"""Rotation vectors [rad] and unit quaternions (w, x, y, z), float64.

The simulator has its own, by MuJoCo's compiled functions, which the core does not know; a test holds them equal.
"""

from __future__ import annotations

import numpy as np

STRAIGHT_DOWN = np.array([0.0, 1.0, 0.0, 0.0])  # a tool whose z axis points down, and whose x axis is the base's


def multiply(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The rotation that does ``second``, then ``first``, both in the fixed frame."""
    w, v, s, u = first[0], first[1:], second[0], second[1:]
    return np.concatenate([[w * s - v @ u], w * u + s * v + np.cross(v, u)])


def inverse(quat: np.ndarray) -> np.ndarray:
    return quat * np.array([1.0, -1.0, -1.0, -1.0])


def quat_from_rotvec(rotvec: np.ndarray) -> np.ndarray:
    angle = float(np.linalg.norm(rotvec))
    # sin(x / 2) / x, whose limit is a half
    scale = 0.5 - angle**2 / 48.0 if angle < 1e-6 else np.sin(angle / 2) / angle
    return np.concatenate([[np.cos(angle / 2)], scale * np.asarray(rotvec, np.float64)])


def rotvec_of(quat: np.ndarray) -> np.ndarray:
    """Of length pi at most."""
    quat = quat if quat[0] >= 0 else -quat
    length = float(np.linalg.norm(quat[1:]))
    return (2.0 if length < 1e-9 else 2.0 * np.arctan2(length, quat[0]) / length) * quat[1:]


def rotvec_between(target: np.ndarray, current: np.ndarray) -> np.ndarray:
    """The rotation vector, in the fixed frame, that turns ``current`` into ``target``."""
    return rotvec_of(multiply(target, inverse(current)))


def tilt(rotvec: np.ndarray) -> float:
    """Angle [rad] between the vertical and an axis that was vertical before a turn by ``rotvec``."""
    w, x, y, z = quat_from_rotvec(rotvec)
    return float(2.0 * np.arctan2(np.hypot(x, y), np.hypot(w, z)))
