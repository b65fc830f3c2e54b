"""Scripted experts as smooth, memoryless functions of the state.

Everything is proportional control that saturates gently; phases (align, descend, climb back) blend
into each other with smooth weights, so that a policy can imitate them and a push at any moment is
answered from wherever it left the tool.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pld_core.types import ActionSpec
from pld_sim.smooth import saturate, smoothstep
from pld_sim.tabletop import rotations
from pld_sim.tabletop.world import TaskError, World

CLOSED, OPEN = -1.0, 1.0


@dataclass(frozen=True)
class InsertionGains:
    """How an insertion is driven. Lengths in metres, angles in radians, speeds in units of action."""

    aligned: float  # lateral error below which the tool may descend
    misaligned: float  # ... and above which it must not
    inside: float  # lateral error up to which something below the rim is in the hole, not beside it
    yaw_aligned: float = 0.05
    yaw_misaligned: float = 0.12
    hover: float = 0.012  # height of the tip above the rim while aligning
    funnel: float = 0.6  # metres of extra height per metre of lateral error
    gain: float = 0.4  # share of the error that one tick tries to remove
    lateral_speed: float = 0.6
    descent_speed: float = 0.4
    vertical_speed: float = 0.6


def insertion_action(
    world: World, error: TaskError, height: float, gains: InsertionGains, spec: ActionSpec
) -> np.ndarray:
    """One action, float32 [7], that brings a held part into its hole.

    error: from the part's tip to its seat; height: metres of the tip above the rim (negative inside).
    """
    lateral, tilt = error.offset[:2], float(np.linalg.norm(error.tilt))
    lead, _ = pending(world)
    distance = float(np.linalg.norm(lateral))
    inside = smoothstep(-height, 0.0005, 0.003) * (1.0 - smoothstep(distance, gains.inside, gains.inside + 0.001))
    aligned = 1.0 - smoothstep(distance, gains.aligned, gains.misaligned)
    aligned *= 1.0 - smoothstep(abs(error.yaw), gains.yaw_aligned, gains.yaw_misaligned)
    # A part that leans has jammed: pushing on would twist it out of the grip.
    ready = max(aligned * smoothstep(height, -0.004, -0.002), inside) * (1.0 - smoothstep(tilt, 0.08, 0.16))

    # Below the rim and not in the hole: climb first, a sideways move would only drag the part along.
    free = max(smoothstep(height, 0.0, 0.005), 0.2 * aligned, inside)
    # What was commanded but is not reached yet needs no second command.
    sideways = saturate(gains.gain * (lateral - lead[:2]) / spec.translation_m, gains.lateral_speed) * free
    goal = gains.hover + gains.funnel * distance
    climb = saturate(np.array([gains.gain * (goal - height - lead[2]) / spec.translation_m]), gains.vertical_speed)[0]
    vertical = ready * -gains.descent_speed + (1.0 - ready) * climb
    return pack([*sideways, vertical], upright_turn(world, error, spec), CLOSED)


@dataclass(frozen=True)
class GraspGains:
    """How a free-standing object is fetched. Lengths in metres, angles in radians, speeds in units of action."""

    object_width: float  # across the fingers
    hover: float  # height of the tool above the grasp point at which nothing is touched
    aligned: float = 0.003
    misaligned: float = 0.008
    yaw_aligned: float = 0.04
    yaw_misaligned: float = 0.12
    close_within: float = 0.005  # distance from the grasp point at which the fingers close
    keep_within: float = 0.020  # ... and up to which closed fingers may still be holding it
    funnel: float = 0.4
    gain: float = 0.45
    lateral_speed: float = 0.8
    descent_speed: float = 0.7
    lift_speed: float = 0.8


def grasp_action(world: World, error: TaskError, gains: GraspGains, spec: ActionSpec) -> np.ndarray:
    """One action, float32 [7], that grasps an object and lifts it; error: from the fingertips to the object."""
    lead, _ = pending(world)
    lateral, height = error.offset[:2], -error.offset[2]
    distance, reach = float(np.linalg.norm(lateral)), float(np.linalg.norm(error.offset))
    width = world.controller.gripper_width(world.data)
    fully_open = 2 * world.arm.finger_open + world.arm.pad_gap

    squeezing = reach < gains.keep_within and width < fully_open - 0.004
    held = squeezing and width < gains.object_width + 0.002
    close = squeezing or (reach < gains.close_within and abs(error.yaw) < gains.yaw_misaligned)

    aligned = 1.0 - smoothstep(distance, gains.aligned, gains.misaligned)
    aligned *= 1.0 - smoothstep(abs(error.yaw), gains.yaw_aligned, gains.yaw_misaligned)
    astride = 1.0 - smoothstep(distance, gains.misaligned, gains.misaligned + 0.002)
    astride *= 1.0 - smoothstep(height, 0.6 * gains.hover, 0.8 * gains.hover)
    ready = max(aligned, astride)
    free = max(smoothstep(height, 0.8 * gains.hover, gains.hover), ready)
    sideways = saturate(gains.gain * (lateral - lead[:2]) / spec.translation_m, gains.lateral_speed) * free
    down = saturate(np.array([gains.gain * (-height - lead[2]) / spec.translation_m]), gains.descent_speed)[0]
    goal = gains.hover + gains.funnel * distance
    hover = saturate(np.array([gains.gain * (goal - height - lead[2]) / spec.translation_m]), gains.lift_speed)[0]
    vertical = ready * down + (1.0 - ready) * hover
    if held:  # lift straight up
        sideways, vertical = np.zeros(2), gains.lift_speed
    return pack([*sideways, vertical], upright_turn(world, error, spec), CLOSED if close else OPEN)


def pending(world: World) -> tuple[np.ndarray, np.ndarray]:
    """Commanded minus measured tool pose: metres [3] and rotation vector [3], base frame."""
    controller = world.controller
    position, quat = controller.measured(world.data)
    return controller.target_position - position, rotations.rotvec_between(controller.target_quat, quat)


def upright_turn(world: World, error: TaskError, spec: ActionSpec, gain: float = 0.4, limit: float = 0.7) -> np.ndarray:
    """Rotation action [3] that straightens the tool (or what it holds) and removes the heading error."""
    _, lead = pending(world)
    wanted = np.array([*error.tilt, error.yaw]) - lead
    return saturate(gain * wanted / spec.rotation_rad, limit)


def pack(translation: np.ndarray | list[float], rotation: np.ndarray, gripper: float) -> np.ndarray:
    return np.clip(np.concatenate([translation, rotation, [gripper]]), -1.0, 1.0).astype(np.float32)
