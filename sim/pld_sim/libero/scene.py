"""What the scripted experts may know: poses, extents and contacts, read straight from the physics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

FURNITURE = 0.5  # [m] half extents of collision shapes beyond this are floors, walls and table tops
FINGER_OPEN = 0.08  # [m] between the pads


class Scene:
    """Privileged view of one simulation. Lengths in metres; everything in LIBERO's world frame.

    domain: the package's task (``env.env``); simulation: mujoco's model and data under it. Nothing is changed.
    """

    def __init__(self, domain: Any, model: Any, data: Any) -> None:
        self.domain, self.model, self.data = domain, model, data
        robot = domain.robots[0]
        self._site, self._hand = robot.eef_site_id, model.body(robot.robot_model.eef_name).id
        self._finger_qpos = np.array(robot._ref_gripper_joint_pos_indexes)
        self._finger_dofs = np.array(robot._ref_gripper_joint_vel_indexes)
        fingers = robot.gripper.important_geoms
        sides = (fingers["left_finger"], fingers["right_finger"])
        self._fingers = [np.isin(np.arange(model.ngeom), [model.geom(n).id for n in names]) for names in sides]
        collides = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
        robot_root = model.body(robot.robot_model.root_body).id
        self.base = data.xpos[robot_root].copy()
        self._solid = collides & (model.geom_aabb[:, 3:].max(axis=1) < FURNITURE) & (model.geom_type != 0)
        self._solid &= ~np.array([robot_root in self._ancestors(b) for b in model.geom_bodyid])
        self._of_body: dict[int, np.ndarray] = {}

    # ---- the hand

    @property
    def tool(self) -> np.ndarray:
        """Position [3] of the point between the fingertips."""
        return self.data.site_xpos[self._site].copy()

    @property
    def hand(self) -> np.ndarray:
        """Rotation matrix [3, 3]; the fingers point along z and open along y."""
        return self.data.xmat[self._hand].reshape(3, 3)

    @property
    def opening(self) -> float:
        """Distance of the finger pads."""
        return float(np.abs(self.data.qpos[self._finger_qpos]).sum())

    @property
    def opening_speed(self) -> float:
        """[m/s], positive while the fingers open."""
        left, right = self.data.qvel[self._finger_dofs]
        return float(left - right)

    def holds(self, geoms: np.ndarray) -> bool:
        """Whether both fingers touch one of ``geoms`` (mask [G]) and have come to rest on it."""
        at_rest = abs(self.opening_speed) < 0.02 and self.opening < FINGER_OPEN - 0.003
        return at_rest and all(self.touch(finger, geoms) for finger in self._fingers)

    def fingers_touch(self, geoms: np.ndarray) -> bool:
        """Whether any finger touches one of ``geoms`` (mask [G])."""
        return any(self.touch(finger, geoms) for finger in self._fingers)

    # ---- things

    def body(self, name: str) -> int:
        """The body of an object or fixture of the task."""
        return int(self.domain.obj_body_id[name])

    def position(self, name: str) -> np.ndarray:
        """Where the package takes an object or fixture to be [3], or the centre of a region."""
        if name in self.domain.object_sites_dict:
            return self.data.site_xpos[self.model.site(name).id].copy()
        return self.data.xpos[self.body(name)].copy()

    def rotation(self, name: str) -> np.ndarray:
        """Rotation matrix [3, 3] of an object, fixture or region."""
        if name in self.domain.object_sites_dict:
            return self.data.site_xmat[self.model.site(name).id].reshape(3, 3)
        return self.data.xmat[self.body(name)].reshape(3, 3)

    def geoms(self, body: int) -> np.ndarray:
        """Mask [G] of the collision shapes of a body and all that is attached to it."""
        if body not in self._of_body:
            members = [body in self._ancestors(b) for b in self.model.geom_bodyid]
            self._of_body[body] = self._solid & np.array(members)
        return self._of_body[body]

    def span(self, geoms: np.ndarray, direction: np.ndarray) -> tuple[float, float]:
        """The least and the largest coordinate of shapes along a unit vector [3]."""
        centre, half = self._boxes(geoms)
        turned = np.abs(np.einsum("gij,i->gj", self.data.geom_xmat[geoms].reshape(-1, 3, 3), direction))
        middle, reach = centre @ direction, (turned * half).sum(axis=1)
        return float((middle - reach).min()), float((middle + reach).max())

    def touch(self, one: np.ndarray, other: np.ndarray) -> bool:
        """Whether any shape of one mask [G] is in contact with any of the other."""
        pairs = self.data.contact.geom
        first, second = pairs[:, 0], pairs[:, 1]
        return bool(((one[first] & other[second]) | (other[first] & one[second])).any())

    # ---- obstacles

    def highest(self, start: np.ndarray, end: np.ndarray, radius: float, ignored: Iterable[np.ndarray] = ()) -> float:
        """Top of the highest shape within ``radius`` of the way between two points (x, y, ...); -inf if none."""
        solid = self._solid.copy()
        for mask in ignored:
            solid &= ~mask
        if not solid.any():
            return -np.inf
        centre, half = self._boxes(solid)
        half = np.einsum("gij,gj->gi", np.abs(self.data.geom_xmat[solid].reshape(-1, 3, 3)), half)
        low, high = centre[:, :2] - half[:, :2] - radius, centre[:, :2] + half[:, :2] + radius
        way = np.where(np.abs(end[:2] - start[:2]) < 1e-6, 1e-6, end[:2] - start[:2])
        one, other = (low - start[:2]) / way, (high - start[:2]) / way
        enter, leave = np.minimum(one, other).max(axis=1), np.maximum(one, other).min(axis=1)
        met = (enter <= leave) & (leave >= 0.0) & (enter <= 1.0)
        return float((centre[:, 2] + half[:, 2])[met].max(initial=-np.inf))

    def within(self, points: np.ndarray, near: np.ndarray, ignored: np.ndarray, margin: float) -> np.ndarray:
        """Whether points [N, 3] lie within any of the shapes around ``near`` [3], grown by ``margin``; bool [N]."""
        reach = np.linalg.norm(self.data.geom_xpos - near, axis=1) - np.linalg.norm(self.model.geom_aabb[:, 3:], axis=1)
        geoms = self._solid & ~ignored & (reach < np.linalg.norm(points - near, axis=1).max() + margin)
        centre, half = self._boxes(geoms)
        offset = np.abs((points - centre[:, None]) @ self.data.geom_xmat[geoms].reshape(-1, 3, 3))  # [g, N, 3]
        return (offset < half[:, None] + margin).all(axis=2).any(axis=0)

    def _boxes(self, geoms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centres [g, 3] in the world and half sizes [g, 3] along the shapes' own axes."""
        boxes = self.model.geom_aabb[geoms]
        turned = np.einsum("gij,gj->gi", self.data.geom_xmat[geoms].reshape(-1, 3, 3), boxes[:, :3])
        return self.data.geom_xpos[geoms] + turned, boxes[:, 3:]

    def _ancestors(self, body: int) -> set[int]:
        chain = set()
        while body > 0:
            chain.add(int(body))
            body = self.model.body_parentid[body]
        return chain
