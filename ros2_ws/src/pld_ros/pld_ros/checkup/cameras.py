"""The cameras: do they open, do they keep their rate, are their pictures new, and is anything on them?"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from pld_core import registry
from pld_core.cli.checks import Check
from pld_core.errors import PLDError
from pld_core.interfaces import CameraDriver
from pld_core.stations import CameraConfig, RobotConfig
from pld_ros.checkup.drawn_cameras import FLAT
from pld_ros.drivers import make_camera

FIRST_FRAME_S = 10.0  # a camera may take so long after it was opened
SETTLING_FRAMES = 10  # exposure and clocks of a camera settle over its first pictures
MANY = 95  # per cent of the frames must be young enough
_READ_S = 0.1
RATE_SHORT = 0.9  # share of fps below which a camera is too slow
_CABLE = "use a USB 3 port of its own, or lower fps or the size in the station's file; for RealSense see exposure_us"


@dataclass
class Seen:
    """What a reader saw of one camera. arrived_s: monotonic seconds; aged_s: at arrival, by the stamps."""

    stamps_ns: list[int] = field(default_factory=list)
    arrived_s: list[float] = field(default_factory=list)
    aged_s: list[float] = field(default_factory=list)
    spread: float = 0.0  # standard deviation of the values of the last picture
    mean: float = 0.0
    changes: bool = False  # no two pictures were alike
    unread: int = 0  # came, and this process was too slow for them
    fault: str = ""  # what the driver says where nothing came


def check_cameras(station: RobotConfig, seconds: float) -> list[Check]:
    """Of all real cameras of a station, open all at the same time, as they are at work; seconds: for how long."""
    cameras = {name: camera for name, camera in station.cameras.items() if camera.driver != "simulated"}
    found, opened, took_s = {}, {}, {}
    with contextlib.ExitStack() as stack:
        for name, config in cameras.items():
            began = time.monotonic()
            try:
                opened[name] = stack.enter_context(_opened(config))
                took_s[name] = time.monotonic() - began
            except PLDError as error:
                found[name] = Check(f"camera {name}", "problem", str(error), _plugged_in(config))
        if opened:
            ended: list[bool] = []  # anything in it ends the readers
            stack.callback(ended.append, True)
            with ThreadPoolExecutor(len(opened)) as readers:
                reading = {name: readers.submit(watch, camera, seconds, ended) for name, camera in opened.items()}
                try:
                    for name, seen in reading.items():
                        found[name] = judge(name, cameras[name], seen.result(), took_s[name])
                finally:
                    ended.append(True)  # before the pool waits for them
    return [found[name] for name in cameras]


@contextlib.contextmanager
def _opened(config: CameraConfig) -> Iterator[CameraDriver]:
    camera = make_camera(config)
    camera.open()
    try:
        yield camera
    finally:
        camera.close()


def watch(camera: CameraDriver, seconds: float, ended: list[bool]) -> Seen:
    """Read for so many seconds from when the camera has settled, or until ``ended`` holds something."""
    seen, settling, before = Seen(changes=True), SETTLING_FRAMES, None
    ends_s, unread = time.monotonic() + FIRST_FRAME_S, 0
    while time.monotonic() < ends_s and not ended:
        frame = camera.read(_READ_S)
        now_s, now_ns = time.monotonic(), time.time_ns()
        if frame is None:
            seen.fault = str(getattr(camera, "fault", ""))
            continue
        settling -= 1
        if settling == 0:
            ends_s, unread = now_s + seconds, _unread(camera)
        if settling <= 0:
            seen.stamps_ns.append(frame.stamp_ns)
            seen.arrived_s.append(now_s)
            seen.aged_s.append((now_ns - frame.stamp_ns) / 1e9)
            seen.changes &= before is None or not np.array_equal(frame.image, before)
            before = frame.image
    if before is not None:
        seen.spread, seen.mean = float(np.std(before)), float(np.mean(before))
    seen.unread = _unread(camera) - unread
    return seen


def _unread(camera: CameraDriver) -> int:
    return int(getattr(camera, "counts", {}).get("unread", 0))


def judge(name: str, config: CameraConfig, seen: Seen, opened_s: float) -> Check:
    """The one worst thing to say of a camera, with all that was measured."""
    title = f"camera {name}"
    if len(seen.stamps_ns) < 3:
        reason = f": {seen.fault}" if seen.fault else ""
        return Check(title, "problem", f"it opened, but only {len(seen.stamps_ns)} frames came{reason}", _CABLE)
    gaps_s = np.diff(seen.stamps_ns) / 1e9
    rate_hz, dropped = 1.0 / gaps_s.mean(), int((gaps_s > 1.5 / config.fps).sum())
    # A frame is in use until the next one comes: it must not be too old even then.
    oldest_ms = 1e3 * (np.array(seen.aged_s[:-1]) + np.diff(seen.arrived_s))
    detail = (
        f"opened in {opened_s:.2f} s; {rate_hz:.1f} of {config.fps} frames a second, {dropped} gaps over 1.5 periods "
        f"(longest {1e3 * gaps_s.max():.0f} ms); frames {1e3 * np.median(seen.aged_s):.0f} ms old on arrival (p50), "
        f"{oldest_ms.max():.0f} ms at most before the next comes ({config.max_age_ms:.0f} are allowed)"
    )
    if seen.unread:
        detail += f"; {seen.unread} frames came and were not read in time"
    if seen.spread < FLAT:
        shown = f"its picture shows nothing: all values lie about {seen.mean:.0f} of 255; {detail}"
        return Check(
            title, "problem", shown, "take off the lens cap, light the scene, or set exposure_us to 0 (automatic)"
        )
    if min(seen.aged_s) < -1e-3:
        late = f"its stamps lie up to {-1e3 * min(seen.aged_s):.0f} ms in the future; {detail}"
        return Check(title, "problem", late, "its driver must stamp with the system time of this machine")
    if rate_hz < RATE_SHORT * config.fps:
        return Check(title, "problem", detail, _busy(seen) or _CABLE)
    if np.percentile(oldest_ms, MANY) > config.max_age_ms:
        return Check(title, "problem", detail, _busy(seen) or f"{_CABLE}; or allow more with max_age_ms")
    if dropped or oldest_ms.max() > config.max_age_ms:
        return Check(title, "warning", detail, _busy(seen) or _CABLE)
    if not seen.changes:
        same = "plug it in again, unless it is a recording of a scene at rest"
        return Check(title, "warning", f"some of its pictures repeat to the last bit; {detail}", same)
    return Check(title, "ok", detail)


def _busy(seen: Seen) -> str:
    return "this machine is too busy to read them: end other programs, allow real-time priority" if seen.unread else ""


def _plugged_in(config: CameraConfig) -> str:
    """What was asked for, and what there is."""
    if config.recording:
        return f"correct recording ({config.recording!r}) in the station's file"
    wanted = f"serial {config.serial!r}" if config.serial else "the only one there is (serial is empty)"
    with contextlib.suppress(PLDError):
        found = getattr(sys.modules[registry.load("cameras", config.driver).__module__], "connected", dict)()
        listing = ", ".join(f"{serial} ({name})" for serial, name in sorted(found.items())) or "none"
        return (
            f"the station asks for {wanted}; connected: {listing}. Plug it in, or correct serial in the station's file"
        )
    return f"the station asks for {wanted} of driver {config.driver!r}"
