"""Where an arm's tool is for some joints, by its URDF. Any arm's: no model of a vendor is needed."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from pld_core.control import rotations
from pld_core.errors import ConfigError
from pld_core.types import RobotState

_TURNING = ("revolute", "continuous")


class Kinematics:
    """The chain of turning joints ``names`` of a URDF file; raises ConfigError where they are none.

    The URDF may have them with another prefix: fr3_joint1 for panda_joint1. It ends at the flange. Where the tool is
    from there on, the arm itself says: it tells joints and tool pose of the same moment.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        try:
            joints = ET.parse(path).getroot().findall("joint")
        except (OSError, ET.ParseError) as error:
            raise ConfigError(f"The URDF {path} cannot be read: {error}.") from error
        by_child, by_name = {_link(j, "child"): j for j in joints}, {j.get("name"): j for j in joints}
        own = named_alike(names, by_name)
        if not names or any(name not in by_name for name in own):
            raise ConfigError(
                f"The URDF {path} lacks joints of the arm ({', '.join(names)}); it has {sorted(map(str, by_name))}."
            )
        chain, joint = [], by_name[own[-1]]
        while joint is not None:
            chain.insert(0, joint)
            joint = by_child.get(_link(joint, "parent"))
        self._chain, self._names, self._own = chain, tuple(names), tuple(own)
        self._ends = [_ends(by_name[name]) for name in own]
        moving = [each.get("name") for each in chain if each.get("type") != "fixed"]
        if moving != list(own) or any(by_name[name].get("type") not in _TURNING for name in own):
            raise ConfigError(f"The URDF {path} has {moving} between its root and {own[-1]}, the arm {list(names)}.")

    def tool_at(self, joints: np.ndarray, now: RobotState) -> np.ndarray:
        """The tool centre ``[3]`` [m] in the base frame for other joints ``[J]`` [rad] than those of ``now``."""
        flange, turn = self._flange(now.joint_positions[: len(self._names)])
        in_flange = _turned(now.position - flange, rotations.inverse(turn))
        flange, turn = self._flange(joints)
        return flange + _turned(in_flange, turn)

    def beyond_limits(self, joints: Sequence[float], ends: Sequence[tuple[float, float]] = ()) -> list[str]:
        """In words, which joints lie beyond their ends: these ``(lowest, highest)`` [rad], else those of the URDF."""
        return [
            f"{name} at {angle:.2f} rad is beyond its ends ({low:.2f} to {high:.2f})"
            for name, angle, (low, high) in zip(self._names, joints, ends or self._ends)
            if not low <= angle <= high
        ]

    def _flange(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position ``[3]`` [m] and quaternion ``[4]`` of the last joint's link in the URDF's root."""
        position, turn, angles = np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0]), dict(zip(self._own, joints))
        for joint in self._chain:
            origin, axis = joint.find("origin"), joint.find("axis")
            if origin is not None:
                position = position + _turned(_numbers(origin.get("xyz")), turn)
                for about, angle in zip(np.eye(3)[::-1], _numbers(origin.get("rpy"))[::-1]):  # yaw, pitch, roll
                    turn = rotations.multiply(turn, rotations.quat_from_rotvec(angle * about))
            if joint.get("name") in angles:
                about = _numbers(axis.get("xyz") if axis is not None else "1 0 0")
                turn = rotations.multiply(turn, rotations.quat_from_rotvec(angles[joint.get("name", "")] * about))
        return position, turn


def named_alike(names: Sequence[str], known: Collection[str | None]) -> list[str]:
    """The names as ``known`` has them: with another prefix where exactly one makes all of them known, else as given."""
    if not names or all(name in known for name in names):
        return list(names)
    prefix = names[0][: names[0].rfind("_") + 1]
    bare = [name.removeprefix(prefix) for name in names]
    others = {name.removesuffix(bare[0]) for name in known if name and name.endswith(bare[0])}
    alike = [[other + part for part in bare] for other in others]
    found = [renamed for renamed in alike if all(name in known for name in renamed)]
    return found[0] if len(found) == 1 else list(names)


def _ends(joint: ET.Element) -> tuple[float, float]:
    """Lowest and highest angle [rad]."""
    limit = joint.find("limit")
    if limit is None or joint.get("type") != "revolute":
        return -math.inf, math.inf
    return float(limit.get("lower", "-inf")), float(limit.get("upper", "inf"))


def _link(joint: ET.Element, end: str) -> str:
    found = joint.find(end)
    return "" if found is None else found.get("link", "")


def _numbers(text: str | None) -> np.ndarray:
    return np.array([float(part) for part in (text or "0 0 0").split()])


def _turned(vector: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
    pure = np.concatenate([[0.0], vector])
    return rotations.multiply(rotations.multiply(quaternion, pure), rotations.inverse(quaternion))[1:]
