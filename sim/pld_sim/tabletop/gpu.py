"""GPU insertion: a graphics card, held by its board, into a slot with 1.75 mm clearance a side (YAM)."""

from __future__ import annotations

import mujoco
import numpy as np

from pld_core.types import ActionSpec
from pld_sim.tabletop import rotations
from pld_sim.tabletop.contacts import GRIP
from pld_sim.tabletop.control import Workspace
from pld_sim.tabletop.models import VISUAL_GROUP, ArmModel
from pld_sim.tabletop.oracles import InsertionGains, insertion_action
from pld_sim.tabletop.scene import CameraPlacement, Well, add_box, add_camera, add_hidden_box, add_well, configure
from pld_sim.tabletop.world import TaskError, World
from pld_sim.tabletop.yam import load_yam

# Half sizes [m]: x along the card, y across it (the fingers close along y), z up.
TAB_HALF, BOARD_HALF = (0.030, 0.004, 0.008), (0.050, 0.004, 0.0275)
CLEARANCE = 0.00175  # a side
SLOT = Well(hole=(TAB_HALF[0] + CLEARANCE, TAB_HALF[1] + CLEARANCE), outer=(0.046, 0.020), height=0.028, depth=0.0155)
SUCCESS_DEPTH, TARGET_DEPTH = 0.010, 0.013
GRIP_HEIGHT = 0.052  # of the fingertips' centre above the connector's lower edge
CENTRE_X = 0.30
BOARD_KG_M3 = 2000.0

GREEN, GOLD = (0.10, 0.60, 0.22, 1.0), (1.0, 0.60, 0.10, 1.0)
BLUE, WHITE, BLACK = (0.12, 0.25, 0.80, 1.0), (0.96, 0.96, 0.96, 1.0), (0.02, 0.02, 0.02, 1.0)
MAINBOARD, CHIP, ALUMINIUM = (0.24, 0.12, 0.30, 1.0), (0.12, 0.12, 0.13, 1.0), (0.70, 0.72, 0.75, 1.0)


class GpuInsertion:
    """Success: the card's connector is more than 10 mm deep in the slot.

    Random per episode: slot x, y within 3.5 cm and yaw within 0.3 rad; tool x, y within 2.5 cm, connector
    5-9 cm above the rim, tool yaw within 0.1 rad; the card's place in the fingers within 4 mm along and
    4 mm up and down.
    """

    name = "gpu_insertion"
    instruction = "insert the graphics card into the slot"
    max_steps = 80
    workspace = Workspace(lower=(0.21, -0.10, 0.055), upper=(0.39, 0.10, 0.195), rotation=(0.25, 0.25, 0.8))
    wrist = CameraPlacement(position=(-0.115, -0.075, 0.030), look_at=(-0.004, 0.0, -0.185), fov=36.0)
    front = CameraPlacement(position=(0.42, -0.62, 0.36), look_at=(0.30, 0.0, 0.062), fov=15.0)
    picture = CameraPlacement(position=(0.72, -0.46, 0.36), look_at=(0.24, 0.0, 0.13), fov=31.0)
    gains = InsertionGains(
        aligned=0.0008, misaligned=0.0018, inside=0.0030, yaw_aligned=0.02, yaw_misaligned=0.05, descent_speed=0.35
    )
    actions = ActionSpec()

    def build(self, visual: bool) -> tuple[mujoco.MjSpec, ArmModel]:
        spec, arm = load_yam(visual)
        configure(spec, visual)
        slot = spec.worldbody.add_body(name="slot", mocap=True, pos=[CENTRE_X, 0, 0])
        add_well(spec, slot, SLOT, (BLUE, WHITE, BLACK))
        add_box(slot, (0.0, 0.035, 0.003), (0.085, 0.075, 0.003), MAINBOARD, solid=True)
        card = self._add_card(spec)
        if visual:
            self._dress(slot, card)
        add_camera(spec.body(arm.hand), "wrist", self.wrist)
        add_camera(spec.worldbody, "front", self.front)
        return spec, arm

    def _add_card(self, spec: mujoco.MjSpec) -> mujoco.MjsBody:
        """The card's frame is the middle of its connector's lower edge, z up when it hangs from the hand."""
        card = spec.worldbody.add_body(name="card", pos=[CENTRE_X, 0, 0.2])
        card.add_freejoint(name="card_joint")
        tab = (0.0, 0.0, TAB_HALF[2])
        board = (0.0, 0.0, 2 * TAB_HALF[2] + BOARD_HALF[2])
        for centre, half, colour in ((tab, TAB_HALF, GOLD), (board, BOARD_HALF, GREEN)):
            add_hidden_box(card, centre, half, density=BOARD_KG_M3, **GRIP)
            add_box(card, centre, half, colour)
        return card

    @staticmethod
    def _dress(slot: mujoco.MjsBody, card: mujoco.MjsBody) -> None:
        """Chips, coolers and a bracket for the picture; drawn only, and away from the fingers."""
        for x, y, half in ((-0.05, 0.075, (0.016, 0.016, 0.004)), (0.035, 0.08, (0.022, 0.012, 0.007))):
            add_box(slot, (x, y, 0.006 + half[2]), half, ALUMINIUM if x > 0 else CHIP, group=VISUAL_GROUP)
        for row in range(3):
            add_box(slot, (0.0, 0.040 + 0.009 * row, 0.010), (0.055, 0.0025, 0.004), CHIP, group=VISUAL_GROUP)
        for side in (-1.0, 1.0):
            add_box(card, (0.033 * side, 0.0, 0.046), (0.0155, 0.0115, 0.022), CHIP, group=VISUAL_GROUP)
        add_box(card, (-0.051, 0.0, 0.043), (0.001, 0.013, 0.033), ALUMINIUM, group=VISUAL_GROUP)

    def randomise(self, world: World, rng: np.random.Generator) -> None:
        centre = np.array([CENTRE_X, 0.0])
        world.set_mocap("slot", np.array([*(centre + rng.uniform(-0.035, 0.035, 2)), 0.0]), rng.uniform(-0.3, 0.3))
        grip_height = GRIP_HEIGHT + rng.uniform(-0.004, 0.004)
        along = rng.uniform(-0.004, 0.004)
        height = SLOT.height + rng.uniform(0.05, 0.09) + grip_height
        tool = np.array([*(centre + rng.uniform(-0.025, 0.025, 2)), height])
        turn = np.array([0.0, 0.0, rng.uniform(-0.1, 0.1)])
        world.controller.place(world.data, tool, turn, BOARD_HALF[1] + 0.0005)
        world.forward()
        matrix = world.tool_matrix
        edge = world.tool_position + matrix @ np.array([along, 0.0, grip_height])
        hanging = rotations.multiply(rotations.quat_from_matrix(matrix.ravel()), np.array([0.0, 1.0, 0.0, 0.0]))
        world.set_free_body("card_joint", edge, hanging)
        world.forward()
        world.settle(6)

    def error(self, world: World) -> TaskError:
        edge, card = world.body_pose(world.model.body("card").id)
        position, slot = world.body_pose(world.model.body("slot").id)
        target = position + np.array([0.0, 0.0, SLOT.height - TARGET_DEPTH])
        # The connector goes in either way round.
        yaw = rotations.wrap(rotations.yaw_of(slot.ravel()) - rotations.yaw_of(card.ravel()), np.pi)
        return TaskError(target - edge, yaw, rotations.tilt_to_upright(card[:, 2]))

    def succeeded(self, world: World) -> bool:
        edge, _ = world.body_pose(world.model.body("card").id)
        position, slot = world.body_pose(world.model.body("slot").id)
        local = slot.T @ (edge - position)
        within = np.abs(local[:2]).max() < 2 * CLEARANCE
        return bool(within and local[2] < SLOT.height - SUCCESS_DEPTH)

    def act(self, world: World) -> np.ndarray:
        error = self.error(world)
        height = -error.offset[2] - TARGET_DEPTH  # of the connector above the rim
        return insertion_action(world, error, height, self.gains, self.actions)
