"""Where the commands have led, and how that lies to the arm."""

from __future__ import annotations

import numpy as np

from pld_core.control import rotations
from pld_core.types import ActionSpec
from pld_ros.drivers.arm import Pose, Reading


def moved(spec: ActionSpec, action: np.ndarray, target: Pose) -> Pose:
    """The target after all of a command."""
    position, quaternion = target
    turn = rotations.quat_from_rotvec(spec.rotation_rad * action[3:6].astype(np.float64))
    return position + spec.translation_m * action[:3].astype(np.float64), rotations.multiply(turn, quaternion)


def way(start: Pose, end: Pose) -> np.ndarray:
    """float64 ``[6]``: metres and rotation vector [rad], in the base frame, that lead from one pose to another."""
    return np.concatenate([end[0] - start[0], rotations.rotvec_between(end[1], start[1])])


def gone(start: Pose, by: np.ndarray) -> Pose:
    """Where a way ``[6]`` [m, rad] leads."""
    return start[0] + by[:3], rotations.multiply(rotations.quat_from_rotvec(by[3:]), start[1])


def action_between(spec: ActionSpec, start: Pose, end: Pose, gripper: float) -> np.ndarray:
    """The command, float32 ``[7]``, from one pose to another; beyond 1 where that is further than one may."""
    units = np.repeat([spec.translation_m, spec.rotation_rad], 3)
    return np.append(way(start, end) / units, gripper).astype(np.float32)


def proprio_of(reading: Reading, target: Pose | None) -> np.ndarray:
    """float32 [13]: tool pose (rotation vector from straight down), opening, lead of the target over the tool."""
    return np.concatenate(
        [
            reading.position,
            rotations.rotvec_between(reading.quaternion, rotations.STRAIGHT_DOWN),
            [reading.gripper_width_m],
            np.zeros(6) if target is None else way(reading.pose, target),
        ]
    ).astype(np.float32)
