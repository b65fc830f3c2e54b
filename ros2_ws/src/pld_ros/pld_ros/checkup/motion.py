"""The test motion: a square of 1 cm, by commands as every policy sends them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pld_core.cli.checks import Check
from pld_core.control import limits_of, rotations
from pld_core.errors import RobotError
from pld_core.interfaces import RobotDriver
from pld_core.stations import RobotConfig
from pld_core.types import RobotState
from pld_ros.checkup.place import at
from pld_ros.drivers.real_arm import RealArm

SIDE_M = 0.01
SIDE_S = 1.0
WARNING_S = 3.0  # between the announcement and the motion
SETTLING_S = 5.0  # at most, for the arm to come to rest at the end
ARRIVED_M = 0.0005
RETURNED_M, TRACKED_M = 0.001, 0.01  # what is well: from the goal at the end, and on the way
GRIPPER_M = 0.002  # by which its opening may differ, as measured
_UNMOVED_M = 0.002  # since the motion was announced
_STATE_S = 0.5
_NAME = "motion"


@dataclass
class Track:
    """What came of the commands. off_m: from where they had led to the tool, after each of them."""

    goal: np.ndarray  # [3] metres: where the commands have led
    offsets: list[np.ndarray] = field(default_factory=list)  # of the tool from the beginning, [3] each
    off_m: list[float] = field(default_factory=list)
    final_m: float = 0.0


def check_motion(
    driver: RobotDriver, station: RobotConfig, note: Callable[[str], None], keep_on: Callable[[], None] = lambda: None
) -> Check:
    """Announce the square, and drive it; ends in a hold. Raises RobotError where the arm reports a fault.

    keep_on: called many times a second; what it raises ends the motion.
    """
    before = _state(driver)
    steps = square(station, before.position)
    refusal = refused(station, before, steps)
    if refusal:
        return Check(_NAME, "problem", refusal, "drive the tool away from there by hand, then try again")
    note(announcement(station, before, steps))
    _pause(WARNING_S, keep_on)
    if np.linalg.norm(_state(driver).position - before.position) > _UNMOVED_M:
        return Check(_NAME, "problem", "not done: the arm moved by itself meanwhile", "let nobody touch it, try again")
    limited = sum(driver.limited.values())
    try:
        track = _drive(driver, station, steps, *_begin(driver, station, before), keep_on)
    finally:
        driver.hold()
    after = _state(driver)
    moved_m = 0.0 if station.is_simulated else abs(after.gripper_width_m - before.gripper_width_m)
    return judge(steps, track, moved_m, sum(driver.limited.values()) - limited)


def square(station: RobotConfig, position: np.ndarray) -> np.ndarray:
    """Metres per command ``[N, 3]``: x out, y out, x back, y back; towards the middle of the workspace."""
    middle = position + 1.0 if station.workspace_m is None else np.mean(station.workspace_m, axis=0)
    count = max(round(SIDE_S * station.rate_hz), math.ceil(SIDE_M / station.translation_m))
    x, y = np.where(middle >= position, SIDE_M / count, -SIDE_M / count)[:2]
    sides = ([x, 0, 0], [0, y, 0], [-x, 0, 0], [0, -y, 0])
    return np.repeat(np.array(sides, np.float64), count, axis=0)


def refused(station: RobotConfig, state: RobotState, steps: np.ndarray) -> str:
    """Why the limits would shorten a command of it; empty where they would not."""
    limits, position = limits_of(station), state.position.copy()
    rotvec = rotations.rotvec_between(state.quaternion, rotations.STRAIGHT_DOWN)
    for step in steps:
        action = _action(step, station, 0.0)
        if not np.allclose(limits.apply(action, position, rotvec), action, atol=1e-6):
            return f"not done: at {at(position)} the square of 1 cm would leave the workspace or meet a keep_out_m box"
        position = position + step
    return ""


def announcement(station: RobotConfig, state: RobotState, steps: np.ndarray) -> str:
    x, y = (("+" if steps[:, axis][steps[:, axis] != 0][0] > 0 else "-") + "xy"[axis] for axis in (0, 1))
    speed_mm_s = 1e3 * np.linalg.norm(steps[0]) * station.rate_hz
    return (
        f"In {WARNING_S:.0f} s the arm of {station.name} MOVES: from {at(state.position)} along a square of 1 cm "
        f"towards {x} and {y}, at {speed_mm_s:.0f} mm/s and its present height, {len(steps) / station.rate_hz:.0f} s "
        "long; the gripper stays as it is. Keep clear. Ctrl-C ends in a hold."
    )


def _begin(driver: RobotDriver, station: RobotConfig, state: RobotState) -> tuple[RobotState, float]:
    """Get ready without moving: the state to begin from, and a gripper command that changes nothing."""
    opened = state.gripper_width_m > station.gripper_open_m / 2
    gripper = 1.0 if opened else -1.0
    if isinstance(driver, RealArm):
        driver.leave_grip(opened)  # half open, or around something
    elif station.is_simulated:
        driver.reset(0)  # a simulated arm takes commands only within an episode
        state = _state(driver)
    else:
        raise RobotError(
            f"Not done: driver {station.driver!r} is not one of this project's, and whether it can leave its gripper "
            "as it is while it moves is not known."
        )
    return state, gripper


def _drive(
    driver: RobotDriver,
    station: RobotConfig,
    steps: np.ndarray,
    first: RobotState,
    gripper: float,
    keep_on: Callable[[], None],
) -> Track:
    track, due_s = Track(first.position.copy()), time.monotonic()
    for step in steps:
        keep_on()
        sent = driver.command(_action(step, station, gripper)[:6], gripper)
        track.goal = track.goal + station.translation_m * sent[:3].astype(np.float64)
        due_s = max(due_s + 1.0 / station.rate_hz, time.monotonic())  # after an overrun, no burst
        state = _wait(driver, station, due_s)
        track.offsets.append(state.position - first.position)
        track.off_m.append(float(np.linalg.norm(track.goal - state.position)))
    give_up_s = time.monotonic() + SETTLING_S
    while True:
        keep_on()
        track.final_m = float(np.linalg.norm(track.goal - _state(driver).position))
        if track.final_m < ARRIVED_M or time.monotonic() > give_up_s:
            return track


def _pause(seconds: float, keep_on: Callable[[], None]) -> None:
    ends_s = time.monotonic() + seconds
    while (left_s := ends_s - time.monotonic()) > 0:
        keep_on()
        time.sleep(min(left_s, 0.05))


def _wait(driver: RobotDriver, station: RobotConfig, due_s: float) -> RobotState:
    """The newest state when the next command is due; a simulated arm's states are themselves the rhythm."""
    state = _state(driver)
    while not station.is_simulated and (left_s := due_s - time.monotonic()) > 0:
        newer = driver.next_state(left_s)
        state = state if newer is None else _sound(newer)
    return state


def judge(steps: np.ndarray, track: Track, gripper_m: float, limited: int) -> Check:
    """limited: how many commands some safety limit has shortened; gripper_m: by how much its opening changed."""
    wanted = np.abs(np.cumsum(steps, axis=0)).max(axis=0)[:2]
    reached = np.abs(np.array(track.offsets)).max(axis=0)[:2]
    off_mm, final_mm = 1e3 * max(track.off_m), 1e3 * track.final_m
    detail = (
        f"the tool went {1e3 * reached[0]:.1f} mm in x and {1e3 * reached[1]:.1f} mm in y (of {1e3 * wanted[0]:.0f}); "
        f"off its goal by {off_mm:.1f} mm at most on the way, {final_mm:.2f} mm at the end; gripper unchanged"
    )
    if gripper_m > GRIPPER_M:
        detail = detail.replace("gripper unchanged", f"the gripper moved by {1e3 * gripper_m:.0f} mm")
        return Check(_NAME, "problem", detail, "nothing was sent to it: look whether it has lost its grip")
    if (reached < wanted / 2).any():
        return Check(_NAME, "problem", detail, "the arm follows badly: is it blocked, are its brakes open?")
    if limited:
        return Check(_NAME, "warning", f"{detail}; limits shortened {limited} commands", "joints near their ends?")
    if final_mm > 1e3 * RETURNED_M or off_mm > 1e3 * TRACKED_M:
        fix = f"up to {1e3 * TRACKED_M:.0f} mm on the way and {1e3 * RETURNED_M:.0f} mm at the end are usual"
        return Check(_NAME, "warning", detail, fix + ": look at friction, payload, and the driver_options of speed")
    return Check(_NAME, "ok", detail)


def _action(step: np.ndarray, station: RobotConfig, gripper: float) -> np.ndarray:
    """float32 ``[7]``, no turn."""
    return np.concatenate([step / station.translation_m, np.zeros(3), [gripper]]).astype(np.float32)


def _state(driver: RobotDriver) -> RobotState:
    state = driver.next_state(_STATE_S)
    if state is None:
        raise RobotError(f"The arm told no state for {_STATE_S} s; it was told to hold.")
    return _sound(state)


def _sound(state: RobotState) -> RobotState:
    if state.fault:
        raise RobotError(f"The motion was ended by a fault: {state.fault}")
    return state
