"""Where and how objects are grasped: measured from their collision shapes, by kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pld_sim.libero.motion import facing_down, leaning
from pld_sim.libero.scene import Scene

TIP_M = 0.013  # of the fingers, beyond the tool point
PALM_M = 0.030  # of the hand, above the tool point
WIDEST_M = 0.070  # that is grasped across; the opening is 0.08
TILT_RAD = 0.6  # of a vessel, up to which the hand leans with it


@dataclass(frozen=True)
class Rim:
    """A vessel that is taken by its wall. Lengths in metres, in the body's frame (z up)."""

    radius: float  # of the middle of the wall
    height: float  # of the tool point above the body's origin


RIMS = {"akita_black_bowl": Rim(0.047, 0.030), "white_bowl": Rim(0.047, 0.030), "plate": Rim(0.059, 0.012)}
"""By category; everything else is grasped across a side."""

STRETCHED_M = 0.68  # from the arm's base sideways; the elbow comes to its stop near 0.78, and stays there
FOLDED_M = 0.45  # ... and to the other one near 0.3
AROUND = np.linspace(-np.pi, np.pi, 16, endpoint=False)  # directions in which a vessel's wall may be taken
SHIFTS = np.array([0.0, 0.012, 0.024])  # of the tool point towards the middle, where there is no room outside
ASIDE, TWISTS = np.array([0.0, -0.015, 0.015]), np.array([0.0, -0.35, 0.35, -0.7, 0.7])  # across: [m], [rad]
# What the open hand occupies besides the object, and passes on its way down: (along the fingers' axis, across it, up)
# from the tool point.
PALM = [
    [r, side, PALM_M + up]
    for r in np.linspace(-0.10, 0.10, 11)
    for side in (-0.03, 0.0, 0.03)
    for up in (0.007, 0.07, 0.13, 0.19)
]
FINGER = [[r, side, up] for r in (0.043, 0.058) for side in (-0.01, 0.01) for up in (-TIP_M + 0.005, 0.02, 0.05)]
OCCUPIED_OUTSIDE = np.array(FINGER + PALM)
OCCUPIED_ACROSS = np.array(FINGER + [[-r, side, up] for r, side, up in FINGER] + PALM)


@dataclass(frozen=True)
class Grasp:
    """Tool point [3] and rotation of the hand [3, 3] in the world; which of the spots that were compared it is."""

    point: np.ndarray
    hand: np.ndarray
    spot: tuple[int, int]


def grasp_of(scene: Scene, name: str, place: np.ndarray, kept: tuple[int, int] | None = None) -> Grasp:
    """How to take hold of an object as it lies now; depends on where things are, never on the hand.

    place: where the object is to go [3]; the arm must reach both ends. kept: the spot of an earlier grasp of
    this object, to be kept while there is room for the hand.
    """
    rim = RIMS.get(scene.domain.objects_dict[name].category_name)
    if rim is None or scene.rotation(name)[2, 2] < np.cos(TILT_RAD):
        return _across(scene, name, kept)
    return _at_rim(scene, name, rim, place, kept)


def _across(scene: Scene, name: str, kept: tuple[int, int] | None) -> Grasp:
    """Across the side that needs the least turn of those that fit, as high as the palm allows, past neighbours."""
    geoms, axes = scene.geoms(scene.body(name)), scene.rotation(name).T
    bottom, top = scene.span(geoms, np.array([0.0, 0.0, 1.0]))
    upright = int(np.abs(axes[:, 2]).argmax())
    sides = []
    for k in range(3):
        if k == upright:
            continue
        flat = np.array([axes[k, 0], axes[k, 1], 0.0])
        flat /= np.linalg.norm(flat)
        low, high = scene.span(geoms, flat)
        yaw = float(np.arctan2(-flat[0], flat[1]))  # turns y onto this side
        yaw = (yaw + np.pi / 2) % np.pi - np.pi / 2
        sides.append((high - low, abs(yaw), yaw, flat, 0.5 * (low + high)))
    fitting = [s for s in sides if s[0] < WIDEST_M] or [min(sides, key=lambda s: s[0])]
    yaw = min(fitting, key=lambda s: round(s[1], 2))[2]
    middle = np.linalg.solve(np.array([s[3][:2] for s in sides]), np.array([s[4] for s in sides]))
    height = max(0.5 * (bottom + top), top - PALM_M + 0.008, bottom + TIP_M)
    along = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    points = np.array([*middle, height]) + ASIDE[:, None, None] * along  # [s, 1, 3]
    points = np.broadcast_to(points, (len(ASIDE), len(TWISTS), 3))
    frames = np.stack([facing_down(yaw + twist).T[[1, 0, 2]] * [[1], [1], [-1]] for twist in TWISTS])
    effort = 0.4 * np.abs(ASIDE)[:, None] + 0.01 * np.abs(TWISTS)
    spot = _roomiest(scene, geoms, points, frames, OCCUPIED_ACROSS, effort, kept)
    return Grasp(points[spot], facing_down(yaw + TWISTS[spot[1]]), spot)


def _at_rim(scene: Scene, name: str, rim: Rim, place: np.ndarray, kept: tuple[int, int] | None) -> Grasp:
    """At the wall's spot with room for the hand, here and there within reach, else with the least turn and shift."""
    up, origin = scene.rotation(name)[:, 2], scene.position(name)
    turns = (AROUND + np.pi / 2 - 1e-9) % np.pi - np.pi / 2  # the fingers' axis has no front and back
    directions = np.stack([-np.sin(AROUND), np.cos(AROUND), np.zeros_like(AROUND)], axis=1)
    outwards = directions - np.outer(directions @ up, up)
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    along = np.cross(outwards, up)
    frames = np.stack([outwards, along, np.broadcast_to(up, along.shape)], axis=1)
    points = origin + rim.height * up + (rim.radius - SHIFTS[:, None, None]) * outwards
    effort = 0.003 * np.abs(turns) + 0.0005 * (np.abs(AROUND) > 1.0) + 0.2 * SHIFTS[:, None]
    for ends in (points, points - origin + place):
        reach = np.linalg.norm((ends - scene.base)[..., :2], axis=2)
        effort = effort + 0.3 * ((reach - STRETCHED_M).clip(min=0.0) + (FOLDED_M - reach).clip(min=0.0))
    spot = _roomiest(scene, scene.geoms(scene.body(name)), points, frames, OCCUPIED_OUTSIDE, effort, kept)
    return Grasp(points[spot], leaning(up) @ facing_down(turns[spot[1]]), spot)


def _roomiest(
    scene: Scene, own: np.ndarray, points: np.ndarray, frames: np.ndarray, occupied: np.ndarray, effort: np.ndarray,
    kept: tuple[int, int] | None,
) -> tuple[int, int]:  # fmt: skip
    """The spot (of ``points`` [s, a, 3], with the hand's axes ``frames`` [a, 3, 3]) with least effort and obstruction.

    occupied: points of the open hand [n, 3], along those axes; effort [s, a]; kept: see ``grasp_of``.
    """

    def blocked(chosen: np.ndarray, axes: np.ndarray, margin: float) -> np.ndarray:  # how many of them
        there = chosen[:, :, None] + (occupied @ axes)[None]
        hit = scene.within(there.reshape(-1, 3), chosen.reshape(-1, 3)[0], own, margin)
        return hit.reshape(there.shape[:3]).sum(axis=2)

    if kept is not None and kept[0] < points.shape[0] and kept[1] < points.shape[1]:  # a vessel may have toppled
        row, column = kept
        if blocked(points[row, column][None, None], frames[column, None], -0.003)[0, 0] == 0:
            return kept
    worst = 0.03 * blocked(points, frames, 0.004) + effort
    row, column = np.unravel_index(worst.argmin(), worst.shape)
    return int(row), int(column)
