"""Smooth, saturated proportional motion of the tool, as functions of where it is and where it should be."""

from __future__ import annotations

import numpy as np

from pld_sim.smooth import saturate, smoothstep

TRANSLATION_M, ROTATION_RAD = 0.05, 0.5  # what an action of 1 stands for
CLOSED, OPEN = -1.0, 1.0
DOWN = np.diag([1.0, -1.0, -1.0])  # the hand's rotation when it points straight down, unturned
# Lengths in metres, speeds in units of action (1 moves at 0.3 m/s).
GAIN = 1.2  # share of the error that one tick asks for
SIDEWAYS, DOWNWARDS, UPWARDS, TURN = 0.9, 0.7, 0.9, 0.8  # greatest speeds
ALIGNED, MISALIGNED = 0.006, 0.030  # sideways error: it may go straight down; it stays at travelling height
UPRIGHT = (0.08, 0.16)  # rotation errors [rad]: not worth a command, fully corrected
SLACK = 0.03  # below travelling height by this much, sideways motion has stopped


def arch(error: np.ndarray, clearance: float, ready: float = 1.0) -> np.ndarray:
    """Translation action [3] that goes up, over and down.

    error: from where the tool is to where it should be [3]; clearance: how far above the goal it must travel;
    ready: 0 keeps it at travelling height however well it is aligned (a turn is not finished).
    """
    distance, height = float(np.linalg.norm(error[:2])), -float(error[2])
    aligned = (1.0 - smoothstep(distance, ALIGNED, MISALIGNED)) * ready
    goal = (1.0 - aligned) * clearance
    free = smoothstep(height - goal, -SLACK, -0.3 * SLACK)
    sideways = saturate(GAIN * error[:2] / TRANSLATION_M, SIDEWAYS) * free
    return np.array([*sideways, vertical(goal - height)])


def vertical(error: float) -> float:
    """Vertical action towards a height ``error`` metres above."""
    wanted = GAIN * error / TRANSLATION_M
    limit = UPWARDS if wanted > 0 else DOWNWARDS
    return limit * float(np.tanh(wanted / limit))


def straight(error: np.ndarray, speed: float) -> np.ndarray:
    """Translation action [3] along a straight line."""
    return saturate(GAIN * error / TRANSLATION_M, speed)


def facing_down(yaw: float) -> np.ndarray:
    """The hand's rotation [3, 3] pointing down, its fingers' axis turned by ``yaw`` from y."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ DOWN


def leaning(up: np.ndarray) -> np.ndarray:
    """The smallest rotation [3, 3] that takes the vertical to the unit vector ``up`` [3], which must not point down."""
    x, y, z = up
    k = 1.0 / (1.0 + z)
    return np.array([[1.0 - k * x * x, -k * x * y, x], [-k * x * y, 1.0 - k * y * y, y], [-x, -y, z]])


def yaw_of(hand: np.ndarray) -> float:
    """Heading [rad] of the fingers' axis, from y; 0 for DOWN."""
    return float(np.arctan2(hand[1, 0], hand[0, 0]))


def rotation_error(hand: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Rotation vector [3], world frame, that takes ``hand`` to ``wanted`` (both [3, 3])."""
    turn = wanted @ hand.T
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    sine, cosine = 0.5 * float(np.linalg.norm(axis)), 0.5 * (float(np.trace(turn)) - 1.0)
    angle = float(np.arctan2(sine, cosine))
    return axis * (0.5 if sine < 1e-9 else 0.5 * angle / sine)


def turning(hand: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Rotation action [3]; nothing at all for small errors.

    The controller starts over from the present rotation at every command that is not zero, and a small one
    does not overcome the wrist's friction: it would only hold the arm back.
    """
    error = rotation_error(hand, wanted)
    worth = smoothstep(float(np.linalg.norm(error)), *UPRIGHT)
    return saturate(GAIN * worth * error / ROTATION_RAD, TURN)


def pack(translation: np.ndarray, rotation: np.ndarray, gripper: float) -> np.ndarray:
    """One action, float32 [7]."""
    return np.clip(np.concatenate([translation, rotation, [gripper]]), -1.0, 1.0).astype(np.float32)
