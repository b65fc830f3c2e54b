"""UVC cameras (``/dev/video*``), network streams and video files through OpenCV."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# OpenCV reads it when it is loaded, as whole seconds: a silent device is to be noticed sooner than after 10 s.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")

import cv2
import numpy as np

from pld_core.errors import ConfigError, RobotUnavailableError
from pld_core.stations import CameraConfig
from pld_ros.drivers.camera_stream import Device, Shot, StreamingCamera
from pld_ros.drivers.capture_clock import CaptureClock

SYSFS = Path("/sys/class/video4linux")
OLDEST_S = 2.0  # a stamp of the kernel that is older, or lies in the future, is wrong
URL_OPEN_MS, URL_READ_MS = 5000, 1000  # of a network stream
PLAIN_PIXELS = 640 * 480  # larger pictures do not pass USB 2 at full rate uncompressed
V4L_AUTOMATIC, V4L_MANUAL = 3, 1  # of CAP_PROP_AUTO_EXPOSURE
V4L_EXPOSURE_UNIT_US = 100
MJPEG = cv2.VideoWriter.fourcc(*"MJPG")
JPEG_END = b"\xff\xd9"
NOTHING = np.empty((0, 0, 3), np.uint8)


class OpenCVCamera(StreamingCamera):
    """A camera by ``serial``: an index, a path such as ``/dev/v4l/by-id/...`` (which stays when others are plugged
    in), or the URL of a stream; empty: the only one. Or a video file (``recording``, or as ``serial``).

    Stamps: the kernel's own of a device (monotonic clock); of a stream the arrival; of a file, which is
    played at its own speed, the time at which each picture is due.

    repeat: a file begins again at its end. If not, its end is the end of the device, as if unplugged.
    """

    def __init__(self, config: CameraConfig, *, repeat: bool = True, reopen_after_s: float = 1.0) -> None:
        source = config.recording or config.serial
        make: Callable[[], Device]
        if config.recording or (Path(source).suffix and Path(source).is_file()):
            make = lambda: _File(Path(source).expanduser(), config.fps, repeat)  # noqa: E731
        elif "://" in source:
            make = lambda: _Url(source)  # noqa: E731
        else:
            make = lambda: _V4l(config)  # noqa: E731
        super().__init__(config, make, reopen_after_s=reopen_after_s)


def connected() -> dict[str, str]:
    """``{path: name}`` of the cameras that are plugged in; not of their second nodes, which give no pictures."""
    found: dict[str, str] = {}
    for node in sorted(SYSFS.glob("video*")):
        try:
            if int((node / "index").read_text()) == 0:
                found[f"/dev/{node.name}"] = (node / "name").read_text().strip()
        except (OSError, ValueError):  # unplugged just now
            continue
    return found


class _Capture:
    """An opened source; see ``camera_stream.Device``."""

    shape: tuple[int, int]

    def __init__(self, what: str, source: str, backend: int, hint: str, parameters: list[int] | None = None) -> None:
        self._what, self._number = what, 0
        self._capture: Any = _guarded(lambda: cv2.VideoCapture(source, backend, parameters or []), what)
        if not self._capture.isOpened():
            raise RobotUnavailableError(f"{what} cannot be opened: {hint}.")
        self.shape = (round(self._get(cv2.CAP_PROP_FRAME_HEIGHT)), round(self._get(cv2.CAP_PROP_FRAME_WIDTH)))

    def _get(self, prop: int) -> float:
        return float(self._capture.get(prop))

    def _grab(self) -> bool:
        """Take the next picture, not decoded yet."""
        taken = bool(_guarded(self._capture.grab, self._what))
        self._number += taken
        return taken

    def _picture(self) -> np.ndarray:
        """What was taken, uint8 ``[h, w, 3]`` RGB; empty if nothing can be made of it."""
        decoded, picture = _guarded(self._capture.retrieve, self._what)
        if decoded and min(picture.shape[:2]) == 1:
            picture = _guarded(lambda: _whole_jpeg(picture), self._what)
        return np.ascontiguousarray(picture[..., ::-1]) if decoded and picture is not None else NOTHING

    def close(self) -> None:
        self._capture.release()


class _V4l(_Capture):
    """A device of this machine."""

    def __init__(self, config: CameraConfig) -> None:
        path = device_path(config.serial, connected())
        super().__init__(f"Camera {path}", path, cv2.CAP_V4L2, "is another program using it, or may you not read it")
        self._clock = CaptureClock()
        self._before = NOTHING
        try:
            set_up(self._capture, config, self._what)
        except ConfigError:
            self.close()
            raise
        self.shape = (config.height, config.width)

    def grab(self, timeout_s: float) -> Shot | None:
        if not self._grab():  # after OpenCV's own timeout
            if not Path(self._what.removeprefix("Camera ")).exists():
                raise RobotUnavailableError(f"{self._what} was unplugged.")
            return None
        now_s, device_s = time.monotonic(), self._get(cv2.CAP_PROP_POS_MSEC) / 1e3
        picture = self._picture()
        # UVC counts nothing. A sensor's noise makes no two pictures alike: what is, is the same one again.
        if picture.size and np.array_equal(picture, self._before):
            self._number -= 1
        self._before = picture
        estimated_s = self._clock.taken_s(device_s, now_s) if device_s else now_s
        taken_s = device_s if 0.0 <= now_s - device_s <= OLDEST_S else estimated_s
        return Shot(self._number, taken_s, picture)


class _Url(_Capture):
    """A network stream."""

    def __init__(self, url: str) -> None:
        times = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, URL_OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, URL_READ_MS]
        super().__init__(f"Stream {url}", url, cv2.CAP_FFMPEG, "is its server running", times)
        if self._get(cv2.CAP_PROP_FOURCC) == MJPEG:
            self._capture.set(cv2.CAP_PROP_FORMAT, -1)  # as it came: see _whole_jpeg

    def grab(self, timeout_s: float) -> Shot | None:
        if not self._grab():  # FFMPEG does not come back from that
            raise RobotUnavailableError(f"{self._what} has ended or fallen silent.")
        now_s = time.monotonic()
        return Shot(self._number, now_s, self._picture())


class _File(_Capture):
    """A video at its own speed."""

    def __init__(self, path: Path, fps: int, repeat: bool) -> None:
        if not path.is_file():
            raise RobotUnavailableError(f"There is no video {path}; correct the camera's recording.")
        super().__init__(f"Video {path}", str(path), cv2.CAP_FFMPEG, "is it a video")
        self._repeat, self._period_s = repeat, 1.0 / (self._get(cv2.CAP_PROP_FPS) or fps)
        self._due_s = time.monotonic()

    def grab(self, timeout_s: float) -> Shot | None:
        left_s = self._due_s - time.monotonic()
        time.sleep(min(max(left_s, 0.0), timeout_s))
        if left_s > timeout_s:
            return None
        while self._next() and time.monotonic() - self._due_s > self._period_s:
            pass  # what a camera would have taken in the meantime is gone
        return Shot(self._number, self._due_s - self._period_s, self._picture())

    def _next(self) -> bool:
        """Take the picture that is due."""
        if not self._grab():
            if not self._repeat:
                raise RobotUnavailableError(f"{self._what} has ended.")
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            if not self._grab():
                raise RobotUnavailableError(f"{self._what} cannot be played again from its beginning.")
        self._due_s += self._period_s
        return True


def _whole_jpeg(data: np.ndarray) -> np.ndarray | None:
    """A picture, BGR, from bytes; None of one that was cut off, which OpenCV would fill up with grey silently."""
    return cv2.imdecode(data, cv2.IMREAD_COLOR) if data.tobytes().rstrip(b"\0").endswith(JPEG_END) else None


def device_path(serial: str, found: dict[str, str]) -> str:
    """The device to open, or why none can be."""
    listing = ", ".join(f"{path} ({name})" for path, name in sorted(found.items())) or "none"
    path = f"/dev/video{serial}" if serial.isdigit() else serial
    if not path and len(found) > 1:
        raise RobotUnavailableError(f"Several cameras are connected; give each its path as serial: {listing}.")
    if not (path and Path(path).exists()) and (path or not found):
        raise RobotUnavailableError(f"There is no camera {path or 'at all'}. Connected: {listing}.")
    return os.path.realpath(path or next(iter(found)))


def set_up(capture: Any, config: CameraConfig, what: str) -> None:
    """Size, rate and exposure of a UVC device; raises ConfigError where it does something else."""
    if config.width * config.height > PLAIN_PIXELS:
        capture.set(cv2.CAP_PROP_FOURCC, MJPEG)
        capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)  # as it came: see _whole_jpeg
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, config.width)
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, config.height)
    capture.set(cv2.CAP_PROP_FPS, config.fps)
    got = tuple(round(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS))
    if got != (config.width, config.height, config.fps):  # it takes the nearest that it can, silently
        raise ConfigError(
            f"{what} gives {got[0]}x{got[1]} at {got[2]} fps in place of {config.width}x{config.height} at "
            f"{config.fps} fps. Give the station what it can do: v4l2-ctl --list-formats-ext."
        )
    if not config.exposure_us:
        capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, V4L_AUTOMATIC)
        return
    fixed = capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, V4L_MANUAL)
    if not (fixed and capture.set(cv2.CAP_PROP_EXPOSURE, round(config.exposure_us / V4L_EXPOSURE_UNIT_US))):
        raise ConfigError(f"{what} takes no exposure_us of {config.exposure_us}; use 0 (automatic).")


def _guarded(call: Callable[[], Any], what: str) -> Any:
    try:
        return call()
    except cv2.error as error:
        raise RobotUnavailableError(f"{what}: {error}.") from error
