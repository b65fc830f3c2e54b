"""``pld bench-arm``: the real driver of an arm against its simulator."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pld_core import registry
from pld_core.cli.common import only_json, take_flag, take_option
from pld_core.errors import ConfigError, RobotUnavailableError, UnknownNameError
from pld_core.interfaces import RobotDriver
from pld_core.stations import RobotConfig, load_robot
from pld_ros.benches.lissajous import drive, spread
from pld_ros.drivers import make_driver

HELP = """usage: pld bench-arm franka|yam [--seconds N] [--json]

Starts the simulator of an arm (libfranka's network protocol, or the YAM's motors on a virtual CAN bus), sends the
driver that drives the real arm along a Lissajous path at up to 0.1 m/s, 20 deltas a second for N seconds (60), and
ends the simulator. The last line is one JSON object:
  ticks, missed   deltas sent, and those that came more than 5 ms late, as after a command that took too long
  call_ms_*       what a command takes the caller: p50, p99, max
  late_ms_*       how late the ticks began
  track_mm_*      from where the deltas led to where the arm was at that moment
  final_mm        the same, two seconds after the last delta and once the arm is at rest
  ik_ms_*         yam: what finding the joints for a pose takes inside of the driver: p50, p99, max
Needs the extra of the arm: pip install 'pld[franka]' or 'pld[yam]'."""


@contextmanager
def _needed_by(name: str) -> Iterator[None]:
    """Raises RobotUnavailableError, which says what to install, for an import that fails."""
    try:
        yield
    except ImportError as error:
        raise RobotUnavailableError(
            f"The simulator of {name} cannot be loaded: {error}. {registry.import_hint(error)}"
        ) from error


@contextmanager
def _franka() -> Iterator[RobotConfig]:
    with _needed_by("franka"):
        from pld_ros.benches.franka_simulator import FrankaSimulator

    station = load_robot("franka_fr3")
    with FrankaSimulator(joints_rad=station.home_joints_rad) as simulator:
        yield dataclasses.replace(station, address=simulator.host)


@contextmanager
def _yam() -> Iterator[RobotConfig]:
    with _needed_by("yam"):
        from pld_ros.benches.motor_chain import SimulatedMotors

    station = load_robot("yam_real_01")
    with SimulatedMotors(station.address, joints=station.home_joints_rad) as motors:
        options = {**station.driver_options, "gripper_limits_rad": motors.gripper_limits_rad}
        yield dataclasses.replace(station, driver_options=options)


BENCHES = {"franka": _franka, "yam": _yam}


def run(args: Sequence[str]) -> int:
    if "-h" in args or "--help" in args or not args:
        print(HELP)
        return 0 if args else 2
    as_json, rest = take_flag(args, "--json")
    seconds, rest = take_option(rest, "--seconds")
    name, *others = rest or [""]
    if others:
        raise UnknownNameError("argument", others[0], ("--seconds", "--json"), "See `pld bench-arm --help`.")
    if name not in BENCHES:
        raise UnknownNameError("arm", name, BENCHES)
    with only_json(as_json, sys.stdout) as out:
        found = measure(name, _seconds(seconds), lambda tick: None)
        print(json.dumps(found), file=out)
    return 0


def measure(name: str, seconds: float, progress: Callable[[int], None]) -> dict[str, float]:
    """See HELP."""
    with BENCHES[name]() as station:
        driver: RobotDriver = make_driver(station, "")
        driver.connect()
        try:
            return {**drive(driver, seconds, progress), **_inverse_kinematics(driver)}
        finally:
            driver.close()


def _inverse_kinematics(driver: RobotDriver) -> dict[str, float]:
    """Of an arm whose driver does that itself; nothing of any other."""
    took_s = getattr(getattr(driver, "arm", None), "ik_s", ())
    return spread("ik_ms", took_s) if took_s else {}


def _seconds(given: str | None) -> float:
    try:
        seconds = 60.0 if given is None else float(given)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < float("inf"):
        raise ConfigError(f"--seconds is {given}; give a number from 1 on.")
    return seconds
