"""Whether what an arm says of itself can be believed."""

from __future__ import annotations

import numpy as np

from pld_ros.drivers.arm import Reading

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


def _said(what: str, value: np.ndarray | float) -> str:
    return (
        f"the arm said that its {what} was {np.round(value, 3).tolist()}, which cannot be; "
        "check its encoders and its cable, then press and release the emergency stop"
    )
