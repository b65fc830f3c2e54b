"""Whether an arm may go home by turning its joints, past what its tool is to keep out of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

from pld_core.control import boxes
from pld_core.stations import RobotConfig

_STEP_RAD = 0.02  # of all joints together, between two looks at the tool: two centimetres at the most
_CLEARANCE_M = 0.02  # joints that do not start and end all at once leave the straight way; a Franka's tool by 11 mm
_ROUNDING_M = 1e-6


def obstacle_on_way_home(
    station: RobotConfig, joint_positions: np.ndarray, tool_at: Callable[[np.ndarray], np.ndarray]
) -> str:
    """What forbids it, and what to do, in words; empty where the way is free.

    joint_positions: ``[J]`` [rad], where the arm stands; tool_at: the tool centre ``[3]`` [m] for joints. The way is
    that on which all joints move evenly. An arm that stands in or at a box may leave it; one that stands outside of the
    workspace may come back to it.
    """
    home = np.array(station.home_joints_rad)
    end = tool_at(home)
    if station.workspace_m is not None:
        low, high = np.array(station.workspace_m)
        if not ((low - _ROUNDING_M <= end) & (end <= high + _ROUNDING_M)).all():
            return (
                f"home_joints_rad lead the tool to {_at(end)}, outside of the workspace {_box(low, high)}; measure "
                "home_joints_rad and workspace_m of the station anew"
            )
    if not station.keep_out_m:
        return ""
    kept_out = boxes.shrunk(np.array(station.keep_out_m), -_CLEARANCE_M)
    for (low, high), (wide_low, wide_high) in zip(np.array(station.keep_out_m), kept_out):
        if boxes.is_in(end, wide_low, wide_high):
            return (
                f"home_joints_rad lead the tool to {_at(end)}, within {1e3 * _CLEARANCE_M:.0f} mm of the keep_out_m "
                f"box {_box(low, high)}; choose another home_joints_rad, or correct the box"
            )
    count = max(1, math.ceil(np.abs(home - joint_positions).sum() / _STEP_RAD))
    points = [tool_at(joint_positions + share * (home - joint_positions)) for share in np.linspace(0.0, 1.0, count + 1)]
    for (low, high), wide in zip(np.array(station.keep_out_m), kept_out):
        if (place := _entered(np.array(points), *wide)) is not None:
            return (
                f"on the straight way of its joints the tool comes to {_at(place)}, within "
                f"{1e3 * _CLEARANCE_M:.0f} mm of the keep_out_m box {_box(low, high)}; drive it, or guide it by hand, "
                "to where its way home is free, such as above the box"
            )
    return ""


def _entered(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray | None:
    """Where a path ``[N, 3]`` [m] first goes into a box, or deeper into it than it has been; None if nowhere."""
    for here, there in itertools.pairwise(points):
        share = boxes.share_outside(here, there - here, np.array([[low, high]]))
        if share < 1.0:
            return here + share * (there - here)
    return None


def _at(position: np.ndarray) -> str:
    return " ".join(f"{axis} {value:.3f}" for axis, value in zip("xyz", position.tolist())) + " m"


def _box(low: np.ndarray, high: np.ndarray) -> str:
    return f"{[low.tolist(), high.tolist()]}"
