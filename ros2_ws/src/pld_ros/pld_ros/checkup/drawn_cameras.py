"""The cameras of a simulated arm: drawn from its states, so there is no rate of theirs to count."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from pld_core.cli.checks import Check
from pld_core.stations import RobotConfig
from pld_core.types import RobotState
from pld_ros.checkup.arm import simulating_task
from pld_ros.drivers.sim_camera import SimCameras

FLAT = 2.0  # spread of the values (0 to 255) below which a picture shows nothing


def check_drawn(station: RobotConfig, state: RobotState | None) -> list[Check]:
    """Draw each simulated camera of a station from the newest state of its arm, if there is one."""
    names = [name for name, camera in station.cameras.items() if camera.driver == "simulated"]
    snapshot = None if state is None else state.snapshot
    if not names:
        return []
    if snapshot is None:
        why = "it is drawn from the states of a simulated arm, and there are none"
        fix = "get the arm to answer first" if station.is_simulated else "give a real arm real cameras"
        return [Check(f"camera {name}", "problem", why, fix) for name in names]
    cameras = SimCameras(simulating_task(station))
    try:
        cameras.render(snapshot)  # the first one makes the renderers
        began = time.monotonic()
        images = cameras.render(snapshot)
        took_ms = 1e3 * (time.monotonic() - began)
        return [_judge(name, images, took_ms) for name in names]
    finally:
        cameras.close()


def _judge(name: str, images: Mapping[str, np.ndarray], took_ms: float) -> Check:
    title = f"camera {name}"
    if name not in images:
        return Check(
            title, "problem", f"the simulator has no such camera, only {', '.join(images)}", "correct its name"
        )
    if np.std(images[name]) < FLAT:
        return Check(title, "problem", "its picture shows nothing", "see the check 'rendering' of `pld doctor`")
    height, width, _ = images[name].shape
    return Check(title, "ok", f"simulated, {width}x{height}; all cameras are drawn in {took_ms:.0f} ms")
