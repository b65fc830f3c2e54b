"""Peg insertion: a 16 mm square peg, held in the hand, into a hole with 2 mm clearance a side."""

from __future__ import annotations

import mujoco
import numpy as np

from pld_core.types import ActionSpec
from pld_sim.tabletop import rotations
from pld_sim.tabletop.contacts import GRIP
from pld_sim.tabletop.control import Workspace
from pld_sim.tabletop.models import ArmModel, load_fr3
from pld_sim.tabletop.oracles import InsertionGains, insertion_action
from pld_sim.tabletop.scene import CameraPlacement, Well, add_box, add_camera, add_hidden_box, add_well, configure
from pld_sim.tabletop.world import TaskError, World

PEG_HALF, PEG_LENGTH, TIP_BAND = 0.008, 0.075, 0.012
CLEARANCE = 0.002  # a side
HOLE_HALF = PEG_HALF + CLEARANCE
SOCKET_HALF, SOCKET_HEIGHT, SOCKET_DEPTH = 0.030, 0.040, 0.030
SUCCESS_DEPTH, TARGET_DEPTH = 0.020, 0.025
CENTRE_X = 0.50
STEEL_KG_M3 = 7800.0

RED, TIP_GREEN = (0.85, 0.10, 0.10, 1.0), (0.15, 0.95, 0.30, 1.0)
BLUE, RIM_YELLOW, HOLE_BLACK = (0.10, 0.25, 0.75, 1.0), (1.0, 0.90, 0.25, 1.0), (0.02, 0.02, 0.02, 1.0)


class PegInsertion:
    """Success: the peg's tip is more than 2 cm below the rim, inside the hole.

    Random per episode: socket x, y within 4 cm and yaw within 0.35 rad; tool x, y within 3 cm, tip
    6-12 cm above the rim, tool yaw within 0.1 rad; the peg's place in the fingers within 6 mm along
    itself and 2 mm across.
    """

    name = "peg_insertion"
    instruction = "insert the peg into the socket"
    max_steps = 80
    workspace = Workspace(lower=(0.38, -0.12, 0.050), upper=(0.62, 0.12, 0.26))
    wrist = CameraPlacement(
        position=(0.105, -0.070, -0.060), look_at=(0.002, 0.0, 0.158), fov=33.0, up=(0.0, 0.0, -1.0)
    )
    front = CameraPlacement(position=(0.56, -0.75, 0.42), look_at=(0.50, 0.0, 0.075), fov=12.5)
    picture = CameraPlacement(position=(0.98, -0.55, 0.42), look_at=(0.47, 0.0, 0.15), fov=30.0)
    gains = InsertionGains(aligned=0.0010, misaligned=0.0022, inside=0.0035)
    actions = ActionSpec()

    def build(self, visual: bool) -> tuple[mujoco.MjSpec, ArmModel]:
        spec, arm = load_fr3(visual)
        configure(spec, visual)
        socket = spec.worldbody.add_body(name="socket", mocap=True, pos=[CENTRE_X, 0, 0])
        well = Well(
            hole=(HOLE_HALF, HOLE_HALF), outer=(SOCKET_HALF, SOCKET_HALF), height=SOCKET_HEIGHT, depth=SOCKET_DEPTH
        )
        add_well(spec, socket, well, (BLUE, RIM_YELLOW, HOLE_BLACK))
        self._add_peg(spec)
        add_camera(spec.body(arm.hand), "wrist", self.wrist)
        add_camera(spec.worldbody, "front", self.front)
        return spec, arm

    def _add_peg(self, spec: mujoco.MjSpec) -> None:
        """The peg's frame is its centre, z up when it hangs from the hand."""
        peg = spec.worldbody.add_body(name="peg", pos=[CENTRE_X, 0, 0.3])
        peg.add_freejoint(name="peg_joint")
        half = PEG_LENGTH / 2
        add_hidden_box(peg, (0, 0, 0), (PEG_HALF, PEG_HALF, half), density=STEEL_KG_M3, **GRIP)
        add_box(peg, (0, 0, TIP_BAND / 2), (PEG_HALF, PEG_HALF, half - TIP_BAND / 2), RED)
        add_box(peg, (0, 0, TIP_BAND / 2 - half), (PEG_HALF, PEG_HALF, TIP_BAND / 2), TIP_GREEN)

    def randomise(self, world: World, rng: np.random.Generator) -> None:
        socket_xy = np.array([CENTRE_X, 0.0]) + rng.uniform(-0.04, 0.04, 2)
        world.set_mocap("socket", np.array([*socket_xy, 0.0]), rng.uniform(-0.35, 0.35))
        tool_xy = np.array([CENTRE_X, 0.0]) + rng.uniform(-0.03, 0.03, 2)
        protrusion = 0.046 + rng.uniform(-0.006, 0.006)  # of the tip below the fingertips' centre
        across = rng.uniform(-0.002, 0.002)
        height = SOCKET_HEIGHT + rng.uniform(0.06, 0.12) + protrusion
        yaw = rng.uniform(-0.1, 0.1)
        world.controller.place(world.data, np.array([*tool_xy, height]), np.array([0.0, 0.0, yaw]), PEG_HALF - 0.0005)
        world.forward()
        matrix = world.tool_matrix
        centre = world.tool_position + matrix @ np.array([across, 0.0, protrusion - PEG_LENGTH / 2])
        # Half a turn about the tool's x axis makes the hanging peg's z axis point up.
        hanging = rotations.multiply(rotations.quat_from_matrix(matrix.ravel()), np.array([0.0, 1.0, 0.0, 0.0]))
        world.set_free_body("peg_joint", centre, hanging)
        world.forward()
        world.settle(6)

    def _tip(self, world: World) -> tuple[np.ndarray, np.ndarray]:
        """Tip position [m] and the peg's rotation matrix [3, 3], base frame."""
        position, matrix = world.body_pose(world.model.body("peg").id)
        return position - matrix[:, 2] * PEG_LENGTH / 2, matrix

    def error(self, world: World) -> TaskError:
        tip, matrix = self._tip(world)
        position, socket = world.body_pose(world.model.body("socket").id)
        target = position + np.array([0.0, 0.0, SOCKET_HEIGHT - TARGET_DEPTH])
        yaw = rotations.wrap(rotations.yaw_of(socket.ravel()) - rotations.yaw_of(matrix.ravel()), np.pi / 2)
        return TaskError(target - tip, yaw, rotations.tilt_to_upright(matrix[:, 2]))

    def succeeded(self, world: World) -> bool:
        tip, _ = self._tip(world)
        position, matrix = world.body_pose(world.model.body("socket").id)
        local = matrix.T @ (tip - position)
        within = np.abs(local[:2]).max() < HOLE_HALF
        return bool(within and local[2] < SOCKET_HEIGHT - SUCCESS_DEPTH)

    def act(self, world: World) -> np.ndarray:
        error = self.error(world)
        height = -error.offset[2] - TARGET_DEPTH  # of the tip above the rim
        return insertion_action(world, error, height, self.gains, self.actions)
