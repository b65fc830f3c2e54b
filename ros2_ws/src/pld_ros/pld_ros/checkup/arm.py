"""The arm: does it answer, how often, how old is what it says, and is it stopped?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pld_core.cli.checks import Check
from pld_core.errors import ConfigError, PLDError, RobotError
from pld_core.interfaces import RobotDriver
from pld_core.stations import RobotConfig, load_task, task_names
from pld_core.types import RobotState
from pld_ros.drivers import make_driver

_PATIENCE_S = 0.5  # for one state
_CONNECTION = {  # what to look at where an arm of this driver does not answer
    "franka": "ping -c 3 {address}; in Desk unlock the joints and activate FCI; end other programs that use the arm",
    "yam": "release the arm's emergency stop; `ip -details link show {address}` is to say UP and bitrate 1000000; end "
    "other programs that use the arm",
}


@dataclass(frozen=True)
class Seen:
    """A state, when it was given (monotonic seconds), and how old it was then by its stamp [s]."""

    at_s: float
    age_s: float
    state: RobotState


def simulating_task(station: RobotConfig) -> str:
    """A task whose scene a simulated station stands in; raises ConfigError where there is none."""
    found = next((name for name in task_names() if _is_for(name, station)), "")
    if not found:
        raise ConfigError(
            f"No task is made for {station.name}, and a simulated arm stands in the scene of a task: there is nothing "
            f"to connect. Write robot_configs/tasks/NAME.yaml with 'robot: {station.name}'."
        )
    return found


def _is_for(task: str, station: RobotConfig) -> bool:
    try:
        return load_task(task).robot == station.name
    except PLDError:
        return False  # not the doctor's patient


def driver_of(station: RobotConfig) -> RobotDriver:
    """Not connected."""
    return make_driver(station, simulating_task(station) if station.is_simulated else "")


def forewarning(station: RobotConfig) -> str:
    """What this arm does by itself when it is connected and let go of; empty where it does nothing."""
    if station.driver != "yam":
        return ""
    text = (
        f"The YAM on {station.address} is without stiffness for about half a second while it is connected, and has no "
        "torque when it is let go of at the end: support it, it sinks."
    )
    if station.driver_options.get("gripper_limits_rad") is None:
        text += (
            " Its gripper moves to both of its ends on connecting, to find them: take out what it holds, keep your "
            "fingers away. (It does not where driver_options give gripper_limits_rad.)"
        )
    return text


def connect(driver: RobotDriver, station: RobotConfig) -> Check:
    """Connect it; how long that took, or why it could not."""
    began = time.monotonic()
    try:
        driver.connect()
    except PLDError as error:
        return Check("connection", "problem", str(error), _advice(station))
    took_s = time.monotonic() - began
    return Check("connection", "ok", f"{_name(station)} answered within {took_s:.2f} s")


def _name(station: RobotConfig) -> str:
    return "the simulated arm" if station.is_simulated else f"{station.driver} at {station.address}"


def _advice(station: RobotConfig) -> str:
    if not station.is_simulated and not station.address:
        return "enter the arm's address in the station's file, as in `address: 172.16.0.2`"
    text = _CONNECTION.get(station.driver, "check the arm's power, its cable and the station's address ({address})")
    return "" if station.is_simulated else text.format(address=station.address)


def collect(driver: RobotDriver, seconds: float) -> list[Seen]:
    """All states of so many seconds. Raises RobotError where the arm says nothing for half a second."""
    seen: list[Seen] = []
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        state = driver.next_state(_PATIENCE_S)
        if state is None:
            raise RobotError(f"The arm told no state for {_PATIENCE_S} s. Check its power and its cable.")
        seen.append(Seen(time.monotonic(), (time.time_ns() - state.stamp_ns) / 1e9, state))
    return seen


def judge_states(station: RobotConfig, seen: Sequence[Seen]) -> Check:
    """Rate, longest gap and age; held against the rate of control, since every tick wants a new state."""
    times, ages = np.array([each.at_s for each in seen]), np.array([each.age_s for each in seen])
    if len(seen) < 3:
        return Check(
            "states", "problem", f"only {len(seen)} states came", "check the arm's cable and this machine's load"
        )
    period_s, gap_s = 1.0 / station.rate_hz, float(np.diff(times).max())
    rate_hz = (len(seen) - 1) / (times[-1] - times[0])
    usual_s, oldest_s = np.percentile(ages, (50, 100))
    detail = (
        f"{rate_hz:.1f} a second ({station.rate_hz:.0f} are needed), {1e3 * usual_s:.0f} ms old (p50), "
        f"{1e3 * oldest_s:.0f} ms at most, longest gap {1e3 * gap_s:.0f} ms"
    )
    busy = "end other programs on this machine, allow real-time priority, use a cable of its own to the arm"
    if rate_hz < 0.9 * station.rate_hz or usual_s > period_s:
        return Check("states", "problem", detail, busy)
    if gap_s > 1.5 * period_s or oldest_s > 1.5 * period_s:
        return Check("states", "warning", detail, busy)
    return Check("states", "ok", detail)


def judge_status(state: RobotState) -> Check:
    """What the arm itself says."""
    if state.fault:
        return Check("stops and faults", "problem", state.fault, "remove the cause; nothing else clears it")
    if state.mode in ("stopped", "fault"):
        return Check("stops and faults", "problem", f"the arm is in mode {state.mode}", "release its emergency stop")
    return Check("stops and faults", "ok", f"none; the arm is {state.mode}")
