"""Scenes that cameras see in tests, and how long a fault takes to be noticed."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from pld_core.types import Frame
from pld_ros.benches import jpeg_stream
from pld_ros.benches.recordings import moving_picture
from pld_ros.drivers.camera_stream import StreamingCamera

HEIGHT, WIDTH, FPS = 120, 160, 30
POLL_S = 0.01
PATIENCE_S = 20.0


@dataclass
class Watched:
    """What a reader that polls saw. Times are monotonic seconds."""

    frames: list[tuple[float, Frame]] = field(default_factory=list)
    well_until_s: float = 0.0  # the last look that found no fault
    fault_s: float = 0.0  # the first that found one
    fault: str = ""
    longest_read_s: float = 0.0

    @property
    def unnoticed_s(self) -> float:
        """For how long it was surely silent and not yet said to be; a starved test looks seldom, but is not misled."""
        return self.well_until_s - self.frames[-1][0]

    @property
    def detection_ms(self) -> float:
        return 1e3 * (self.fault_s - self.frames[-1][0])


def watch(camera: StreamingCamera, until: Callable[[Watched], bool]) -> Watched:
    """Read until then, as a loop that must not be held up."""
    seen, deadline = Watched(), time.monotonic() + PATIENCE_S
    while not until(seen):
        assert time.monotonic() < deadline, f"{seen.fault or 'no fault'}, {len(seen.frames)} frames, {camera.counts}"
        began = time.monotonic()
        fault = camera.fault
        if fault and not seen.fault:
            seen.fault, seen.fault_s = fault, time.monotonic()
        elif not fault:
            seen.well_until_s = began
        reading = time.monotonic()
        frame = camera.read(POLL_S)
        seen.longest_read_s = max(seen.longest_read_s, time.monotonic() - reading)
        if frame is not None:
            seen.frames.append((reading, frame))
            seen.fault = ""
    return seen


def until_fault(seen: Watched) -> bool:
    return bool(seen.fault and seen.frames)


def until_frame(seen: Watched) -> bool:
    return bool(seen.frames)


@dataclass
class JpegServer:
    """A network camera: multipart JPEG over HTTP on the loopback, which can be made to misbehave."""

    url: str
    mode: Literal["well", "silent", "half", "other size", "gone"] = "well"


@contextmanager
def jpeg_server() -> Iterator[JpegServer]:
    def pictures(name: str) -> Iterator[bytes]:
        number = 0
        while camera.mode != "gone":
            yield b"" if camera.mode == "silent" else _jpeg(number, camera.mode)
            number += camera.mode != "silent"
            time.sleep(1 / FPS)

    with jpeg_stream.jpeg_server(pictures) as url:
        camera = JpegServer(f"{url}/camera.mjpg")
        try:
            yield camera
        finally:
            camera.mode = "gone"


def _jpeg(number: int, mode: str) -> bytes:
    picture = moving_picture(number, HEIGHT, WIDTH)
    data = jpeg_stream.jpeg(picture[:96, :128] if mode == "other size" else picture, quality=90)
    return data[: len(data) // 2] if mode == "half" else data


def free_port() -> int:
    """Where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
