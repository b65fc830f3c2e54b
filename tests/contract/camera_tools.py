"""Scenes that cameras see in tests, and how long a fault takes to be noticed."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from PIL import Image

from pld_core.types import Frame
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
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *given: object) -> None: ...

        def do_GET(self) -> None:
            if camera.mode == "gone":
                return self.send_error(503)
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
            self.end_headers()
            number = 0
            try:
                while camera.mode != "gone":
                    if camera.mode != "silent":
                        self.wfile.write(_part(number, camera.mode))
                        number += 1
                    time.sleep(1 / FPS)
            except OSError:  # the driver has closed it
                pass
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    camera = JpegServer(f"http://127.0.0.1:{server.server_port}/camera.mjpg")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield camera
    finally:
        camera.mode = "gone"
        server.shutdown()
        server.server_close()
        thread.join()


def _part(number: int, mode: str) -> bytes:
    picture, jpeg = moving_picture(number, HEIGHT, WIDTH), io.BytesIO()
    Image.fromarray(picture[:96, :128] if mode == "other size" else picture).save(jpeg, "JPEG", quality=90)
    data = jpeg.getvalue()
    data = data[: len(data) // 2] if mode == "half" else data
    return b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data + b"\r\n"


def free_port() -> int:
    """Where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
