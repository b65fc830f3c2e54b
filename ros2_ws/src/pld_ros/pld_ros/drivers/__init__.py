"""Arms and cameras behind one protocol each (``pld_core.interfaces``). Nothing here knows ROS."""

from __future__ import annotations

import inspect
from typing import Any

from pld_core import registry
from pld_core.control import limits_of
from pld_core.errors import ConfigError
from pld_core.interfaces import CameraDriver, RobotDriver
from pld_core.stations import CameraConfig, RobotConfig


def make_driver(station: RobotConfig, task: str, *, realtime: bool = True) -> RobotDriver:
    """The driver of a station, not connected yet.

    The simulated twin's is made from the task, whose scene it is, and may run in lockstep
    (``realtime=False``); a real arm's from its station. Both get the station's ``driver_options``.
    """
    make = registry.load("drivers", station.driver)
    if not station.is_simulated:
        return _called(make, station, station, **station.driver_options)
    driver = _called(make, station, task, realtime=realtime, limits=limits_of(station), **station.driver_options)
    if driver.spec() != station.action_spec:
        raise ConfigError(
            f"Station {station.name!r} and the simulator of task {task!r} differ in what an action means: "
            f"{station.action_spec} and {driver.spec()}. Correct rate_hz, translation_m, rotation_rad or frame."
        )
    return driver


def make_camera(camera: CameraConfig) -> CameraDriver:
    """The driver of a real camera, not open yet; made from its part of the station's file."""
    return registry.load("cameras", camera.driver)(camera)


def _called(make: Any, station: RobotConfig, *arguments: Any, **options: Any) -> RobotDriver:
    try:
        inspect.signature(make).bind(*arguments, **options)
    except TypeError as error:
        raise ConfigError(
            f"Driver {station.driver!r} of station {station.name!r} does not take these options: {error}. "
            f"Given: {sorted(options)}; it is {station.driver}{inspect.signature(make)}."
        ) from error
    return make(*arguments, **options)
