"""Where the tool is, and where its start pose is, within what a station allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pld_core.cli.checks import Check
from pld_core.control import rotations
from pld_core.errors import ConfigError
from pld_core.stations import Bounds, RobotConfig
from pld_core.types import RobotState
from pld_ros.checkup.kinematics import Kinematics
from pld_ros.launching.robot_description import urdf_path

NEAR_M = 0.01  # to a face of the workspace
_AXES = "xyz"
_URDF_FIX = "correct the station's urdf; nothing else depends on it"


def check_tool(station: RobotConfig, state: RobotState) -> Check:
    """The tool centre against the workspace, the boxes to keep out of, and the largest tilt."""
    where, reasons = at(state.position), _faults(station, state.position)
    tilt_rad = rotations.tilt(rotations.rotvec_between(state.quaternion, rotations.STRAIGHT_DOWN))
    if station.max_tilt_rad is not None and tilt_rad > station.max_tilt_rad:
        reasons.append(f"it is tilted by {tilt_rad:.2f} rad, {station.max_tilt_rad:.2f} are allowed")
    if reasons:
        fix = (
            "guide the arm back by hand, or correct workspace_m, keep_out_m or max_tilt_rad of the station; commands "
            "can only lead further in until then"
        )
        return Check("workspace", "problem", f"tool at {where}: {'; '.join(reasons)}", fix)
    if station.workspace_m is None:
        return Check("workspace", "ok", f"tool at {where}; the station has no box")
    low, high = np.array(station.workspace_m)
    room = np.stack([state.position - low, high - state.position])
    faces = ", ".join(f"{axis} -{1e3 * a:.0f} +{1e3 * b:.0f}" for axis, a, b in zip(_AXES, *room))
    detail = f"tool at {where}, inside; to the faces [mm]: {faces}; tilted by {tilt_rad:.2f} rad"
    if room.min() < NEAR_M:
        return Check("workspace", "warning", detail, "close to a face: motion that way is soon shortened; is it right?")
    return Check("workspace", "ok", detail)


def check_home(station: RobotConfig, state: RobotState) -> Check | None:
    """Where home_joints_rad lead the tool, by the station's URDF; None where the station has none."""
    path, joints = urdf_path(station), station.home_joints_rad
    if not joints:
        return None
    if path is None or not path.is_file():
        return _unchecked(station, path)
    try:
        kinematics = Kinematics(path, state.joint_names[: len(joints)])
    except ConfigError as error:
        return Check("start pose", "warning", f"not checked: {error}", _URDF_FIX)
    position = kinematics.tool_at(np.array(joints), state)
    reasons = kinematics.beyond_limits(joints, _known_ends(station)) + _faults(station, position)
    detail = f"home_joints_rad lead the tool to {at(position)}"
    if reasons:
        fix = "measure home_joints_rad and workspace_m of the station anew: every reset goes there"
        return Check("start pose", "problem", f"{detail}: {'; '.join(reasons)}", fix)
    return Check("start pose", "ok", f"{detail}, inside")


def _unchecked(station: RobotConfig, path: Path | None) -> Check:
    if not station.urdf:
        return Check("start pose", "warning", "not checked: the station names no urdf", "enter the arm's: a path")
    package = station.urdf.rpartition(":")[0] if path is None else ""
    fix = f"install the package {package!r}, or {_URDF_FIX}" if package else _URDF_FIX
    return Check("start pose", "warning", f"not checked: no URDF at {path or station.urdf}", fix)


def _known_ends(station: RobotConfig) -> Sequence[tuple[float, float]]:
    """Of the joints [rad], where the driver knows them better than the station's URDF; else none."""
    if station.driver == "franka" and station.driver_options.get("model") == "panda":
        from pld_ros.drivers.franka import _PANDA_RANGES  # its URDF is an FR3's

        return _PANDA_RANGES
    return ()


def at(position: np.ndarray) -> str:
    """A position ``[3]`` [m] for people."""
    return " ".join(f"{axis} {round(value, 3) + 0.0:.3f}" for axis, value in zip(_AXES, position.tolist())) + " m"


def _faults(station: RobotConfig, position: np.ndarray) -> list[str]:
    """In words; none where the tool may be there."""
    found = [] if station.workspace_m is None else _outside(position, station.workspace_m)
    for box in station.keep_out_m:
        if not _outside(position, box):
            found.append(f"it is within the box {[list(corner) for corner in box]} of keep_out_m")
    return found


def _outside(position: np.ndarray, box: Bounds) -> list[str]:
    found = []
    for axis, value, low, high in zip(_AXES, position, *box):
        if not low <= value <= high:
            face, beyond_m = ("lowest", low - value) if value < low else ("highest", value - high)
            found.append(f"it is {1e3 * beyond_m:.0f} mm outside of the {face} {axis} ({low if value < low else high})")
    return found
