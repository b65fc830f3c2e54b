"""Whether what an arm says of itself can be believed, and what is told of it."""

from __future__ import annotations

import numpy as np

from pld_core.types import RobotMode, RobotState
from pld_ros.drivers.arm import Pose, Reading
from pld_ros.drivers.target import proprio_of

FINGERS = "fingers"
_NORM_SLACK = 0.01  # of a quaternion; what is further from 1 than rounding and float32 is no rotation


def nonsense_in(reading: Reading) -> str:
    """What no arm can have measured, in words; empty where there is nothing of the kind."""
    for what, value in (
        ("joint angles", reading.joint_positions),
        ("tool position", reading.position),
        ("tool orientation", reading.quaternion),
        ("gripper opening", reading.gripper_width_m),
        ("time of measurement", reading.heard_at),
    ):
        if not np.isfinite(value).all():
            return _said(what, value)
    if abs(np.linalg.norm(reading.quaternion) - 1.0) > _NORM_SLACK:
        return _said("tool orientation", reading.quaternion) + " (a quaternion has the length 1)"
    return ""


def silence_of(age_s: float, allowed_s: float) -> str:
    """What is told of an arm whose newest measurement is too old."""
    return (
        f"the arm has said nothing for {1e3 * age_s:.0f} ms ({1e3 * allowed_s:.0f} ms are allowed); "
        "check its power, its cable and the load of this machine, then press and release the emergency stop"
    )


def state_of(
    reading: Reading, target: Pose | None, joint_names: tuple[str, ...], *, stamp_ns: int, mode: RobotMode, fault: str,
    resets: int,
) -> RobotState:  # fmt: skip
    return RobotState(
        stamp_ns=stamp_ns,
        proprio=proprio_of(reading, target),
        joint_positions=np.append(reading.joint_positions, reading.gripper_width_m),
        joint_names=(*joint_names, FINGERS),
        position=reading.position.copy(),
        quaternion=reading.quaternion.copy(),
        gripper_width_m=reading.gripper_width_m,
        mode=mode,
        fault=fault,
        resets=resets,
    )


def _said(what: str, value: np.ndarray | float) -> str:
    return (
        f"the arm said that its {what} was {np.round(value, 3).tolist()}, which cannot be; "
        "check its encoders and its cable, then press and release the emergency stop"
    )
