"""A task whose objects and arm stand in another simulator, followed here for its pictures, oracle and success."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import mujoco
import numpy as np

from pld_core.errors import ContractError
from pld_core.types import ActionSpec
from pld_sim.tabletop import rotations
from pld_sim.tabletop.cube import CubePickup
from pld_sim.tabletop.environment import SharedScene
from pld_sim.tabletop.world import Task, World


class MovableTask(Task, Protocol):
    """A task whose objects can stand in any simulator: all are free bodies on the table."""

    def add_objects(self, spec: mujoco.MjSpec) -> None: ...


class Mirror:
    """The scene of one seed, and what a task makes of the joints that another simulator reports.

    The other simulator has the arm at its origin, the table's top at z = 0, and the task's names for joints.
    One thread only, if pictures are drawn.
    """

    def __init__(self, task: MovableTask, seed: int, image_size: int = 64) -> None:
        self._task = task
        self._scene = SharedScene(task, image_size)
        self._world = World(self._scene.model, self._scene.arm, task.workspace, ActionSpec())
        self._world.clear()
        task.randomise(self._world, np.random.default_rng(seed))
        self.name, self.max_steps = task.name, task.max_steps

    def objects(self) -> str:
        """MJCF of what lies on the table at the beginning, without arm and table."""
        spec = mujoco.MjSpec()
        spec.compiler.degree = False
        self._task.add_objects(spec)
        for body in spec.worldbody.bodies:
            address = self._world.model.joint(body.joints[0].name).qposadr[0]
            body.pos, body.quat = np.split(self._world.data.qpos[address : address + 7], [3])
        spec.compile()
        return spec.to_xml()

    def follow(self, joints: Mapping[str, np.ndarray]) -> None:
        """Take over the positions of all joints: ``{name: [n]}``, radians, metres, quaternions (w, x, y, z)."""
        model, data = self._world.model, self._world.data
        for index in range(model.njnt):
            joint = model.joint(index)
            if joint.name not in joints:
                raise ContractError(f"Nothing is said of joint {joint.name!r}, only of {', '.join(sorted(joints))}.")
            size = 7 if joint.type[0] == mujoco.mjtJoint.mjJNT_FREE else 1
            data.qpos[joint.qposadr[0] : joint.qposadr[0] + size] = joints[joint.name]
        for finger in self._scene.arm.fingers:  # there, the pads touch at 0
            data.qpos[model.joint(finger).qposadr[0]] -= self._scene.arm.pad_gap / 2
        self._world.forward()

    def pictures(self) -> Mapping[str, np.ndarray]:
        """``{camera: uint8 [size, size, 3]}``: what the task's cameras see."""
        return self._scene.pictures(self._world.data)

    def act(self, lead: np.ndarray, rotation_lead: np.ndarray) -> np.ndarray:
        """The task's scripted expert, float32 [7].

        lead: [3] metres, rotation_lead: [3] rotation vector, by which the arm's target is ahead of its tool.
        """
        controller = self._world.controller
        position, quat = controller.measured(self._world.data)
        controller.target_position = position + lead
        controller.target_quat = rotations.multiply(rotations.quat_from_rotvec(rotation_lead), quat)
        return self._task.act(self._world)

    def succeeded(self) -> bool:
        return self._task.succeeded(self._world)


def cube_pickup(seed: int) -> Mirror:
    return Mirror(CubePickup(), seed)
