"""Where the commands have led, and how that lies to the arm."""

from __future__ import annotations

import numpy as np

from pld_core.control import rotations
from pld_core.types import ActionSpec
from pld_ros.drivers.arm import Reading

Pose = tuple[np.ndarray, np.ndarray]  # of the tool centre in the base frame: [3] m, and [4] w, x, y, z


def moved(
    spec: ActionSpec, action: np.ndarray, target: Pose, reading: Reading, max_lead_m: float, max_lead_rad: float
) -> tuple[Pose, bool]:
    """The target after a command, not too far ahead of the arm; and whether that has shortened the way."""
    position, quaternion = target
    goal = position + spec.translation_m * action[:3].astype(np.float64)
    near = reading.position + _shorten(goal - reading.position, max_lead_m)
    turn = rotations.quat_from_rotvec(spec.rotation_rad * action[3:6].astype(np.float64))
    ahead = rotations.rotvec_between(rotations.multiply(turn, quaternion), reading.quaternion)
    lead = _shorten(ahead, max_lead_rad)
    there = near, rotations.multiply(rotations.quat_from_rotvec(lead), reading.quaternion)
    return there, not (np.allclose(near, goal) and np.allclose(lead, ahead))


def proprio_of(reading: Reading, target: Pose | None) -> np.ndarray:
    """float32 [13]: tool pose (rotation vector from straight down), opening, lead of the target over the tool."""
    position, quaternion = target or (reading.position, reading.quaternion)
    return np.concatenate(
        [
            reading.position,
            rotations.rotvec_between(reading.quaternion, rotations.STRAIGHT_DOWN),
            [reading.gripper_width_m],
            position - reading.position,
            rotations.rotvec_between(quaternion, reading.quaternion),
        ]
    ).astype(np.float32)


def _shorten(vector: np.ndarray, limit: float) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector if length <= limit else vector * (limit / length)
