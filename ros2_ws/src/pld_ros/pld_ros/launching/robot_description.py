"""The arm's URDF as robot_state_publisher and RViz take it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from pld_core.errors import ConfigError
from pld_core.stations import RobotConfig

_RELATIVE_MESH = re.compile(r'(<mesh\s[^>]*filename=")(?![a-z]+://|/)([^"]+)"')


def urdf_path(station: RobotConfig) -> Path | None:
    """Where the station's URDF lies; None where it names none, or one of a package that is not installed."""
    package, _, inside = station.urdf.rpartition(":")
    if not package:
        return Path(inside) if inside else None
    found = importlib.util.find_spec(package)
    return Path(found.origin).parent / inside if found is not None and found.origin else None


def robot_description(station: RobotConfig) -> str:
    """The URDF's text, its meshes by absolute address; empty where there is none."""
    path = urdf_path(station)
    if path is None:
        return ""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"urdf of robot {station.name}: cannot read {path}: {error.strerror}.") from error
    folder = path.parent.absolute().as_uri()
    return _RELATIVE_MESH.sub(rf'\g<1>{folder}/\g<2>"', text)
