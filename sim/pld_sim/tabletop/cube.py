"""Cube pick-up: the red cube among others, barely narrower than the open gripper."""

from __future__ import annotations

import mujoco
import numpy as np

from pld_core.types import ActionSpec
from pld_sim.tabletop import rotations
from pld_sim.tabletop.contacts import GRIP
from pld_sim.tabletop.control import Workspace
from pld_sim.tabletop.models import TASK_GROUP, ArmModel, load_fr3
from pld_sim.tabletop.oracles import GraspGains, grasp_action
from pld_sim.tabletop.scene import CameraPlacement, add_camera, configure
from pld_sim.tabletop.world import TaskError, World

CUBE_HALF, DISTRACTOR_HALF = 0.031, 0.022  # the open gripper leaves 10 mm a side, none at 0.4 rad of yaw error
LIFT = 0.06  # of the cube's underside above the table
CENTRE_X = 0.50
SPREAD = 0.08  # of the red cube, each way
DISTRACTOR_SPREAD = (0.12, 0.16)
APART = 0.105  # centre to centre, so that open fingers fit between
WOOD_KG_M3 = 500.0

COLOURS = {"red": (0.85, 0.08, 0.08, 1.0), "blue": (0.10, 0.25, 0.85, 1.0), "green": (0.10, 0.65, 0.20, 1.0)}


class CubePickup:
    """Success: the red cube is held and its underside more than 6 cm above the table.

    Random per episode: cube x, y within 8 cm and yaw within 0.6 rad; a blue and a green cube anywhere
    that leaves room for the fingers; tool x, y within 5 cm, 16-22 cm up, yaw within 0.1 rad; gripper open.
    """

    name = "cube_pickup"
    instruction = "pick up the red cube"
    max_steps = 100
    workspace = Workspace(lower=(0.34, -0.20, 0.014), upper=(0.66, 0.20, 0.26))
    wrist = CameraPlacement(position=(0.085, 0.0, -0.040), look_at=(0.010, 0.0, 0.180), fov=46.0, up=(0.0, 0.0, -1.0))
    front = CameraPlacement(position=(0.62, -0.80, 0.55), look_at=(0.50, 0.0, 0.045), fov=21.0)
    picture = CameraPlacement(position=(1.06, -0.62, 0.50), look_at=(0.47, 0.0, 0.12), fov=31.0)
    gains = GraspGains(object_width=2 * CUBE_HALF, hover=CUBE_HALF + 0.020)
    actions = ActionSpec()

    def build(self, visual: bool) -> tuple[mujoco.MjSpec, ArmModel]:
        spec, arm = load_fr3(visual)
        configure(spec, visual)
        self.add_objects(spec)
        add_camera(spec.body(arm.hand), "wrist", self.wrist)
        add_camera(spec.worldbody, "front", self.front)
        return spec, arm

    @staticmethod
    def add_objects(spec: mujoco.MjSpec) -> None:
        """The cubes, in a row on the table."""
        for colour, rgba in COLOURS.items():
            half = CUBE_HALF if colour == "red" else DISTRACTOR_HALF
            cube = spec.worldbody.add_body(name=f"{colour}_cube", pos=[CENTRE_X, 0, half])
            cube.add_freejoint(name=f"{colour}_joint")
            cube.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                size=[half] * 3,
                rgba=rgba,
                group=TASK_GROUP,
                density=WOOD_KG_M3,
                **GRIP,
            )

    def randomise(self, world: World, rng: np.random.Generator) -> None:
        centre = np.array([CENTRE_X, 0.0])
        red = centre + rng.uniform(-SPREAD, SPREAD, 2)
        spots = [red]
        for _ in range(2):
            spots.append(self._free_spot(rng, spots))
        for colour, spot in zip(COLOURS, spots, strict=True):
            half, turn = (CUBE_HALF, 0.6) if colour == "red" else (DISTRACTOR_HALF, np.pi / 4)
            yaw = rotations.quat_from_yaw(rng.uniform(-turn, turn))
            world.set_free_body(f"{colour}_joint", np.array([*spot, half]), yaw)
        tool = np.array([*(centre + rng.uniform(-0.05, 0.05, 2)), rng.uniform(0.16, 0.22)])
        turn = np.array([0.0, 0.0, rng.uniform(-0.1, 0.1)])
        world.controller.place(world.data, tool, turn, world.arm.finger_open)
        world.forward()
        world.settle(4, gripper=1.0)

    @staticmethod
    def _free_spot(rng: np.random.Generator, taken: list[np.ndarray]) -> np.ndarray:
        """A place for one more cube; the area is large enough that a few draws suffice."""
        while True:
            spot = np.array([CENTRE_X, 0.0]) + rng.uniform(-1.0, 1.0, 2) * DISTRACTOR_SPREAD
            if all(np.linalg.norm(spot - other) > APART for other in taken):
                return spot

    def error(self, world: World) -> TaskError:
        position, matrix = world.body_pose(world.model.body("red_cube").id)
        tool = world.tool_matrix
        # The tool's x axis stays horizontal-ish while a cube may roll: its flattest axis gives the heading.
        axis = matrix[:, np.argmin(np.abs(matrix[2]))]
        yaw = rotations.wrap(float(np.arctan2(axis[1], axis[0])) - rotations.yaw_of(tool.ravel()), np.pi / 2)
        return TaskError(position - world.tool_position, yaw, rotations.tilt_to_upright(-tool[:, 2]))

    def succeeded(self, world: World) -> bool:
        position, _ = world.body_pose(world.model.body("red_cube").id)
        near = float(np.linalg.norm(position - world.tool_position)) < CUBE_HALF
        closed_on_it = abs(world.controller.gripper_width(world.data) - 2 * CUBE_HALF) < 0.004
        return bool(near and closed_on_it and position[2] - CUBE_HALF > LIFT)

    def act(self, world: World) -> np.ndarray:
        return grasp_action(world, self.error(world), self.gains, self.actions)
