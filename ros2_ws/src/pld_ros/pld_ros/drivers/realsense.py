"""RealSense cameras through pyrealsense2, or a recording of one (``.db3``, ``.bag``) in place of it.

Only colour is asked for: no other stream then shares the cable, or holds colour back until it is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyrealsense2

from pld_core.errors import ConfigError, PLDError, RobotUnavailableError
from pld_core.stations import CameraConfig
from pld_ros.drivers.camera_stream import Shot, StreamingCamera
from pld_ros.drivers.capture_clock import CaptureClock

rs: Any = pyrealsense2  # compiled, without type information
OLDEST_S = 2.0  # a stamp of the host clock that is older, or lies in the future, is wrong
FUTURE_S = 0.02
COLOUR_EXPOSURE_UNIT_US = 100  # of a colour sensor of its own; where depth and colour share one, it is 1
RGB_CHANNELS = {
    rs.format.rgb8: slice(0, 3),
    rs.format.bgr8: slice(2, None, -1),
    rs.format.rgba8: slice(0, 3),
    rs.format.bgra8: slice(2, None, -1),
}


class RealSenseCamera(StreamingCamera):
    """A camera by its serial number, or what was recorded of one (``recording``) at the speed of then.

    Stamps. A device whose time librealsense keeps on the host's clock (global time, switched on here)
    says itself when a picture was taken. Of any other, and of recordings, whose time is long past, the
    capture is estimated from their clock and the arrivals (CaptureClock).

    repeat: a recording begins again at its end. If not, its end is the end of the device, which is found
    again at the next attempt, as if it had been unplugged and plugged in.
    """

    def __init__(self, config: CameraConfig, *, repeat: bool = True, reopen_after_s: float = 1.0) -> None:
        if config.recording:
            super().__init__(config, lambda: _Recording(config, repeat), reopen_after_s=reopen_after_s)
        else:
            super().__init__(config, lambda: _Connected(config), reopen_after_s=reopen_after_s)


def connected() -> dict[str, str]:
    """``{serial number: name}`` of the cameras that are plugged in."""
    found: dict[str, str] = {}
    for device in rs.context().query_devices():
        with contextlib.suppress(RuntimeError):  # unplugged just now
            found[device.get_info(rs.camera_info.serial_number)] = device.get_info(rs.camera_info.name)
    return found


class _Pipeline:
    """A started pipeline; see ``camera_stream.Device``."""

    def __init__(self, request: Any, what: str) -> None:
        self._what = what
        self._clock = CaptureClock()
        self._domain: Any = None
        self._pipeline = rs.pipeline()
        # Without a device that offers this, start() waits for 15 s and lets no thread of Python run meanwhile.
        if not _guarded(lambda: request.can_resolve(rs.pipeline_wrapper(self._pipeline)), f"{what} cannot be used"):
            raise RobotUnavailableError(f"{what} is not offered by the camera, or it was unplugged just now.")
        profile = _guarded(lambda: self._pipeline.start(request), f"{what} does not start")
        self.device = profile.get_device()
        colour = profile.get_stream(rs.stream.color).as_video_stream_profile()
        self._channels = RGB_CHANNELS.get(colour.format())
        self.shape = (colour.height(), colour.width())  # of a device: as the station says, or no start
        if self._channels is None:
            self.close()
            raise ConfigError(f"{what} has colour as {colour.format()}; record it as RGB8.")

    def grab(self, timeout_s: float) -> Shot | None:
        arrived, frames = _guarded(
            lambda: self._pipeline.try_wait_for_frames(max(1, round(timeout_s * 1e3))), f"{self._what} was lost"
        )
        colour = frames.get_color_frame() if arrived else None
        if not colour:
            return None
        now_s = time.monotonic()
        # Copied, or librealsense's few buffers are soon all in use and no frame comes any more.
        image = np.array(np.asanyarray(colour.get_data())[..., self._channels])
        return Shot(colour.get_frame_number(), self._taken_s(colour, now_s), image)

    def _taken_s(self, colour: Any, now_s: float) -> float:
        domain, device_s = colour.get_frame_timestamp_domain(), colour.get_timestamp() / 1e3
        if domain != self._domain:  # global time falls back on the device's own clock while it is not known well
            self._domain, self._clock = domain, CaptureClock()
        return self._clock.taken_s(device_s, now_s)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is gone, or never started
            self._pipeline.stop()


class _Connected(_Pipeline):
    """A device on the bus."""

    def __init__(self, config: CameraConfig) -> None:
        serial = _serial(config.serial, connected())
        request = rs.config()
        request.enable_device(serial)
        request.enable_stream(rs.stream.color, config.width, config.height, rs.format.rgb8, config.fps)
        asked = f"RealSense {serial} ({config.width}x{config.height} at {config.fps} fps)"
        super().__init__(request, asked)
        try:
            _guarded(lambda: set_up(colour_sensor(self.device), config.exposure_us), f"{asked} refuses its settings")
        except PLDError:
            self.close()
            raise

    def _taken_s(self, colour: Any, now_s: float) -> float:
        estimated_s = super()._taken_s(colour, now_s)
        if self._domain == rs.timestamp_domain.hardware_clock:
            return estimated_s
        age_s = time.time() - colour.get_timestamp() / 1e3
        return now_s - max(age_s, 0.0) if -FUTURE_S <= age_s <= OLDEST_S else estimated_s


class _Recording(_Pipeline):
    """A device out of a file."""

    def __init__(self, config: CameraConfig, repeat: bool) -> None:
        path = Path(config.recording).expanduser()
        if not path.is_file():
            raise RobotUnavailableError(f"There is no recording {path}; correct the camera's recording.")
        request = rs.config()
        what = f"Recording {path}"
        device = _guarded(lambda: rs.context().load_device(str(path)), f"{what} cannot be used")
        streams = [profile.stream_type() for sensor in device.query_sensors() for profile in sensor.profiles]
        if rs.stream.color not in streams:
            raise ConfigError(f"{what} has no colour, only {', '.join(s.name for s in streams) or 'nothing'}.")
        request.enable_device_from_file(str(path), repeat)
        request.enable_stream(rs.stream.color)
        super().__init__(request, what)
        self._playback = self.device.as_playback()

    def close(self) -> None:
        super().close()
        # To free a stopped playback may crash the process (librealsense 2.59, seldom): it stays until that ends.
        for part in (self._pipeline, getattr(self, "device", None)):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(part))

    def grab(self, timeout_s: float) -> Shot | None:
        shot = super().grab(timeout_s)
        if shot is None and self._playback.current_status() == rs.playback_status.stopped:
            raise RobotUnavailableError(f"{self._what} has ended.")
        return shot


def _serial(wanted: str, found: dict[str, str]) -> str:
    """The serial number to open, or why none can be."""
    listing = ", ".join(f"{serial} ({name})" for serial, name in sorted(found.items())) or "none"
    if not found:
        raise RobotUnavailableError(
            "No RealSense camera is connected. Plug it into a USB 3 port; without one, give the camera a "
            "recording: path.db3. Its access rights are librealsense's udev rules."
        )
    if wanted and wanted not in found:
        raise RobotUnavailableError(f"No RealSense camera has the serial number {wanted!r}. Connected: {listing}.")
    if not wanted and len(found) > 1:
        raise RobotUnavailableError(f"Several RealSense cameras are connected; give each its serial: {listing}.")
    return wanted or next(iter(found))


def colour_sensor(device: Any) -> Any:
    """The one that colour comes from; some cameras have none of its own for it, but their depth's."""
    return next(
        sensor
        for sensor in device.query_sensors()
        if any(profile.stream_type() == rs.stream.color for profile in sensor.get_stream_profiles())
    )


def set_up(sensor: Any, exposure_us: int) -> None:
    """Global time, and exposure: automatic (0) or fixed, in microseconds, of the sensor that colour comes from."""
    option = rs.option
    if sensor.supports(option.global_time_enabled):
        sensor.set_option(option.global_time_enabled, 1)
    if exposure_us:
        unit_us = 1 if sensor.is_depth_sensor() else COLOUR_EXPOSURE_UNIT_US
        valid = sensor.get_option_range(option.exposure)
        if not valid.min <= exposure_us / unit_us <= valid.max:
            raise ConfigError(
                f"exposure_us must be 0 (automatic) or from {valid.min * unit_us:.0f} to {valid.max * unit_us:.0f} for "
                f"this camera, got {exposure_us}."
            )
        sensor.set_option(option.enable_auto_exposure, 0)
        sensor.set_option(option.exposure, round(exposure_us / unit_us))
        return
    sensor.set_option(option.enable_auto_exposure, 1)
    if sensor.supports(option.auto_exposure_priority):
        sensor.set_option(option.auto_exposure_priority, 0)  # or it halves its rate in poor light


def _guarded(call: Callable[[], Any], what: str) -> Any:
    """librealsense raises RuntimeError for everything."""
    try:
        return call()
    except RuntimeError as error:
        raise RobotUnavailableError(f"{what}: {error}.") from error
