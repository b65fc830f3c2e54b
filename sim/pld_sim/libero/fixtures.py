"""Drawers are opened and knobs turned by grasping them: smooth, memoryless functions of the state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pld_sim.libero.grasps import TIP_M
from pld_sim.libero.motion import (
    CLOSED,
    OPEN,
    TRANSLATION_M,
    arch,
    facing_down,
    leaning,
    pack,
    rotation_error,
    smoothstep,
    straight,
    turning,
)
from pld_sim.libero.scene import FINGER_OPEN, Scene

UP = np.array([0.0, 0.0, 1.0])
BACK_OFF = 0.07  # [m] in front of a handle, where the hand turns before it comes and after it has let go
CLOSE_WITHIN, KEEP_WITHIN = 0.010, 0.030  # [m] of a handle, the fingers close, and go on closing
PULL, TWIST = 0.5, 0.25  # speeds in units of action
APPROACH = 0.6  # ... towards a handle
SHUT = 0.003  # [m] between the fingers: they hold nothing and have to open again
LEVEL = 0.5  # cosine between the fingers and the vertical, below which a hand may still be around a handle
HOVER, DEEP = 0.06, 0.022  # [m] above where a knob is held, the hand turns; below its ridge's top, fingertips reach
LEAN_RAD = 0.5  # of a hand at a knob, fingertips towards the arm: upright, the arm would have to fold too far


class Open:
    """Pulls a drawer open by its bar, with a level hand that has room between the bars above and below.

    It comes in a straight line: what stands before the drawer is pushed aside. Its target is the bar throughout.
    joint: the drawer's slide; outwards: +1 where opening raises its value, else -1; fulfilled: whether it is open.
    """

    def __init__(self, scene: Scene, joint: str, outwards: float, fulfilled: Callable[[], bool]) -> None:
        self._scene, self._joint, self._outwards, self._fulfilled = scene, scene.model.joint(joint), outwards, fulfilled
        drawer = np.flatnonzero(scene.geoms(int(self._joint.bodyid[0])))
        foremost = drawer[(scene.data.geom_xpos[drawer] @ self._way()).argmax()]
        self._bar = np.arange(scene.model.ngeom) == foremost

    def done(self) -> bool:
        return self._fulfilled() and not self._around_bar()

    def target(self) -> tuple[np.ndarray, float]:
        return self._scene.data.geom_xpos[self._bar][0] - self._scene.tool, 0.0

    def act(self) -> np.ndarray:
        scene, fingers, (error, _) = self._scene, self._fingers(), self.target()
        if self._fulfilled():
            return pack(-PULL * fingers, np.zeros(3), OPEN)
        if scene.holds(self._bar):
            return pack(PULL * self._way(), np.zeros(3), CLOSED)
        hand = self._hand(fingers)
        aside = error - (error @ fingers) * fingers
        turned = 1.0 - smoothstep(float(np.linalg.norm(rotation_error(scene.hand, hand))), 0.1, 0.2)
        ready = turned * (1.0 - smoothstep(float(np.linalg.norm(aside)), 0.006, 0.015))
        if _closes(scene, error, ready):
            return pack(np.zeros(3), np.zeros(3), CLOSED)
        move = error - (1.0 - ready) * BACK_OFF * fingers
        return pack(straight(move, APPROACH), turning(scene.hand, hand), OPEN)

    def _way(self) -> np.ndarray:
        """Unit vector [3] along which the drawer opens."""
        return self._outwards * self._scene.data.xaxis[self._joint.id]

    def _fingers(self) -> np.ndarray:
        """Where the hand should point, unit vector [3]: into the drawer, and away from the arm, which is short."""
        into = _away(self._scene, self.target()[0] + self._scene.tool) - self._way()
        return into / np.linalg.norm(into)

    def _hand(self, fingers: np.ndarray) -> np.ndarray:
        """Rotation [3, 3] of a hand with one finger above the other, whichever way takes less turning."""
        hands = [np.stack([np.cross(side, fingers), side, fingers], axis=1) for side in (UP, -UP)]
        return min(hands, key=lambda hand: float(np.linalg.norm(rotation_error(self._scene.hand, hand))))

    def _around_bar(self) -> bool:
        near = np.linalg.norm(self.target()[0]) < BACK_OFF - 0.01
        return bool(near and -self._scene.hand[2, 2] < LEVEL)


class TurnOn:
    """Turns a knob on, by its ridge.

    joint: the knob's vertical hinge; more is anticlockwise, and further on. fulfilled: whether it is on.
    """

    def __init__(self, scene: Scene, joint: str, fulfilled: Callable[[], bool]) -> None:
        self._scene, self._joint, self.done = scene, scene.model.joint(joint), fulfilled
        self._knob = scene.geoms(int(self._joint.bodyid[0]))
        tops = {g: scene.span(np.arange(scene.model.ngeom) == g, UP)[1] for g in np.flatnonzero(self._knob)}
        self._ridge = max(tops, key=lambda g: tops[g])
        self._height = tops[self._ridge] - DEEP + TIP_M

    def target(self) -> tuple[np.ndarray, float]:
        error = np.array([*self._scene.data.xanchor[self._joint.id][:2], self._height]) - self._scene.tool
        return error, float(rotation_error(self._scene.hand, self._hand())[2])

    def act(self) -> np.ndarray:
        scene, hand, (error, _) = self._scene, self._hand(), self.target()
        if scene.holds(self._knob):
            return pack(error / TRANSLATION_M, TWIST * UP, CLOSED)
        ready = 1.0 - smoothstep(float(np.linalg.norm(rotation_error(scene.hand, hand))), 0.12, 0.3)
        if _closes(scene, error, ready):
            return pack(np.zeros(3), np.zeros(3), CLOSED)
        return pack(arch(error, HOVER, ready=ready), turning(scene.hand, hand), OPEN)

    def _hand(self) -> np.ndarray:
        """Rotation [3, 3] of a hand across the ridge, its wrist leaning away from the arm."""
        scene = self._scene
        axes = scene.data.geom_xmat[self._ridge].reshape(3, 3)
        level = scene.model.geom_aabb[self._ridge, 3:] * (np.abs(axes[2]) < 0.5)
        along = axes[:, int(level.argmax())]
        yaw = float(np.arctan2(along[1], along[0]))
        away = _away(scene, scene.data.xanchor[self._joint.id])
        up = np.cos(LEAN_RAD) * UP + np.sin(LEAN_RAD) * away
        return leaning(up) @ facing_down((yaw + np.pi / 2) % np.pi - np.pi / 2)


def _away(scene: Scene, point: np.ndarray) -> np.ndarray:
    """Level unit vector [3] from the arm's base towards a point."""
    level = (point - scene.base) * [1.0, 1.0, 0.0]
    return level / np.linalg.norm(level)


def _closes(scene: Scene, error: np.ndarray, ready: float) -> bool:
    """Whether the fingers close now: there and open, or on their way."""
    reach, opened = float(np.linalg.norm(error)), scene.opening > FINGER_OPEN - 0.012
    closing = reach < KEEP_WITHIN and not opened and scene.opening_speed < 0.01 and scene.opening > SHUT
    return closing or (opened and reach < CLOSE_WITHIN and ready > 0.5)
