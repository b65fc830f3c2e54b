"""Pick and place as a smooth, memoryless function of the state: whatever happened, it goes on from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from pld_sim.libero.grasps import TIP_M, Grasp, grasp_of
from pld_sim.libero.motion import (
    CLOSED,
    OPEN,
    arch,
    facing_down,
    pack,
    rotation_error,
    smoothstep,
    turning,
    vertical,
    yaw_of,
)
from pld_sim.libero.scene import FINGER_OPEN, Scene

CLOSE_WITHIN = 0.010  # [m] of the grasp point, the fingers close
KEEP_WITHIN = 0.030  # [m] ... and closing fingers go on
RELEASE_WITHIN = 0.015  # [m] sideways of the place point, the fingers open
LANDED_WITHIN = 0.022  # [m] ... or, if it has landed, already here
HOVER = 0.05  # [m] least travelling height of the tool above the grasp, of an object above its place
MARGIN = 0.03  # [m] above what is in the way
OUT_SPEED, RISE_SPEED = 0.5, 0.12  # out from under something, in units of action
RETREAT = 0.08  # [m] above a finished grasp


class Skill(Protocol):
    """One step of a plan."""

    def done(self) -> bool: ...

    def act(self) -> np.ndarray:
        """Action, float32 [7], +1 opens."""
        ...

    def target(self) -> tuple[np.ndarray, float]:
        """From the tool to where it should go now: metres [3], world frame, and the turn about z [rad]."""
        ...


class PickPlace:
    """Brings an object to a place.

    place: where the object's position should be [3]; fulfilled: whether the goal's predicate holds;
    support: mask [G] of what it is put on, for which there is no need to go higher than the place.
    """

    def __init__(
        self,
        scene: Scene,
        name: str,
        place: Callable[[], np.ndarray],
        fulfilled: Callable[[], bool],
        support: np.ndarray,
    ) -> None:
        self._scene, self._name, self._place, self._fulfilled = scene, name, place, fulfilled
        self._spot: tuple[int, int] | None = None  # of the grasp; all that is remembered
        self._geoms, self._support = scene.geoms(scene.body(name)), support

    def done(self) -> bool:
        return self._fulfilled() and not self._scene.holds(self._geoms)

    def target(self) -> tuple[np.ndarray, float]:
        scene = self._scene
        if scene.holds(self._geoms):
            return self._place() - scene.position(self._name), 0.0
        grasp = self._grasp()
        turn = rotation_error(scene.hand, grasp.hand)
        return grasp.point - scene.tool, float(turn[2])

    def act(self) -> np.ndarray:
        return self._carry() if self._scene.holds(self._geoms) else self._fetch()

    def _grasp(self) -> Grasp:
        grasp = grasp_of(self._scene, self._name, self._place(), self._spot)
        self._spot = grasp.spot
        return grasp

    def _fetch(self) -> np.ndarray:
        scene, grasp = self._scene, self._grasp()
        error = grasp.point - scene.tool
        turn = rotation_error(scene.hand, grasp.hand)
        in_the_way = scene.highest(scene.tool, grasp.point, 0.06)
        clearance = max(HOVER, in_the_way + TIP_M + MARGIN - grasp.point[2])
        ready = 1.0 - smoothstep(float(np.linalg.norm(turn)), 0.12, 0.3)
        move = arch(error, clearance, ready=ready)
        reach = float(np.linalg.norm(error))
        opened = scene.opening > FINGER_OPEN - 0.012
        around = reach < KEEP_WITHIN or scene.fingers_touch(self._geoms)
        closing = around and not opened and scene.opening_speed < 0.01 and scene.opening > 0.003
        close = closing or (opened and reach < CLOSE_WITHIN and ready > 0.5)
        if closing:  # keep still: pulling now would pull it out of the fingers
            return pack(np.zeros(3), np.zeros(3), CLOSED)
        return pack(move, turning(scene.hand, grasp.hand), CLOSED if close else OPEN)

    def _carry(self) -> np.ndarray:
        scene, position, place = self._scene, self._scene.position(self._name), self._place()
        error = place - position
        bottom, _ = scene.span(self._geoms, np.array([0.0, 0.0, 1.0]))
        size = max(np.ptp(scene.span(self._geoms, axis)) for axis in np.eye(3)[:2])
        in_the_way = scene.highest(position, place, 0.5 * size + 0.01, [self._geoms])
        clearance = max(HOVER, in_the_way + MARGIN + (position[2] - bottom) - place[2])
        sideways = float(np.linalg.norm(error[:2]))
        there = sideways < RELEASE_WITHIN and -error[2] < 0.006
        landed = sideways < LANDED_WITHIN and scene.touch(self._geoms, self._support)
        hand = facing_down(yaw_of(scene.hand))
        move = arch(error, clearance)
        if there or landed:
            return pack(np.zeros(3), turning(scene.hand, hand), OPEN)
        if (away := self._covered_from(0.5 * size)) is not None:  # out from under it first
            out = away if away.any() else error[:2]
            move = np.array([*OUT_SPEED * out / np.linalg.norm(out), RISE_SPEED])
        return pack(move, turning(scene.hand, hand), CLOSED)

    def _covered_from(self, radius: float) -> np.ndarray | None:
        """Away [2] from what juts out over the object's edge, like a cabinet over its drawer; zero where that is all
        around, None where nothing does."""
        scene = self._scene
        position, top = scene.position(self._name), scene.span(self._geoms, np.array([0.0, 0.0, 1.0]))[1]
        edge = np.array([[radius * np.cos(a), radius * np.sin(a), 0.0] for a in np.arange(0.0, 2.0 * np.pi, np.pi / 8)])
        above = np.array([[0.0, 0.0, top - position[2] + h] for h in (0.004, 0.012, 0.020, 0.030)])
        points = position + (edge[:, None] + above).reshape(-1, 3)
        covered = scene.within(points, position, self._geoms, 0.002).reshape(len(edge), len(above)).any(axis=1)
        if not covered.any():
            return None
        return -edge[covered].mean(axis=0)[:2].round(6)


def withdraw(scene: Scene, upto: float) -> np.ndarray:
    """Open and rise to the height ``upto`` [m], and stay there."""
    hand = facing_down(yaw_of(scene.hand))
    rise = vertical(upto - float(scene.tool[2]))
    return pack(np.array([0.0, 0.0, max(rise, 0.0)]), turning(scene.hand, hand), OPEN)
