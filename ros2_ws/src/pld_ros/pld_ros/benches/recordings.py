"""Recordings that stand in for cameras: RealSense's own format, made without a device, and video files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np

from pld_core.errors import ConfigError

MARK = 16  # pixels, of the corner that says which picture it is


@dataclass(frozen=True)
class Delivery:
    """One picture as the device hands it over.

    at_s: when, from the beginning, as a player will do again; taken_s: what the device's clock says;
    number: its count of pictures; image: uint8 ``[h, w, 3]`` RGB, all of one size; colour, depth: False where
    a device with both streams delivers only the other one.
    """

    at_s: float
    taken_s: float
    number: int
    image: np.ndarray
    colour: bool = True
    depth: bool = True


def moving_picture(number: int, height: int, width: int) -> np.ndarray:
    """uint8 ``[height, width, 3]``: a red square that walks over a blue slope; no two of 4096 are alike.

    The green of three squares in the upper left corner counts: see ``number_of``.
    """
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 2] = np.linspace(0, 255, width, dtype=np.uint8)
    side = max(height // 4, 1)
    left, top = 3 * number % max(width - side, 1), (height - side) // 2
    image[top : top + side, left : left + side] = (255, 0, 0)
    for place in range(3):
        digit = number >> 4 * (2 - place) & 15
        image[:MARK, place * MARK : (place + 1) * MARK] = (0, 16 * digit, 0)
    return image


def number_of(image: np.ndarray) -> int:
    """Which ``moving_picture`` it is, modulo 4096; also after lossy compression."""
    digits = (image[4 : MARK - 4, place * MARK + 4 : (place + 1) * MARK - 4, 1].mean() for place in range(3))
    return sum(round(float(digit) / 16) << 4 * (2 - place) for place, digit in enumerate(digits))


def steady(seconds: float, fps: int, height: int, width: int) -> list[Delivery]:
    """Moving pictures as a good camera delivers them."""
    count = round(seconds * fps)
    return [Delivery(i / fps, i / fps, i + 1, moving_picture(i, height, width)) for i in range(count)]


def record_realsense(
    path: Path | str, deliveries: Iterable[Delivery], fps: int = 30, *, serial: str = "000000", depth: bool = False
) -> Path:
    """Write a ``.db3`` that pyrealsense2 plays like a camera; takes as long as the recording lasts.

    A software device is recorded, since the recorder keeps its own time. depth: every delivery has a depth
    picture too (the blue of ``image``, as millimetres).
    """
    import pyrealsense2

    rs: Any = pyrealsense2  # compiled, without type information
    path = Path(path)
    deliveries = list(deliveries)
    if path.suffix != ".db3" or not deliveries:
        raise ConfigError(f"A RealSense recording needs a name that ends in .db3 and pictures, got {path.name!r}.")
    path.unlink(missing_ok=True)  # the recorder adds to what is there
    kinds = [(rs.stream.color, rs.format.rgb8, 3)] if any(each.colour for each in deliveries) else []
    kinds += [(rs.stream.depth, rs.format.z16, 2)] if depth else []
    device = rs.software_device()
    device.register_info(rs.camera_info.name, "PLD recording")
    device.register_info(rs.camera_info.serial_number, serial)
    size = deliveries[0].image.shape[:2]
    feeds = []
    for kind in kinds:
        sensor = device.add_sensor(f"{kind[0].name} sensor")
        profile = sensor.add_video_stream(_stream(rs, kind, size, fps))
        feeds.append((kind, sensor, profile.as_video_stream_profile()))
    recorder = rs.recorder(str(path), device)
    recorded = recorder.query_sensors()
    for sensor in recorded:
        sensor.open(sensor.get_stream_profiles()[0])
        sensor.start(rs.frame_queue(1))
    started = time.monotonic()
    for delivery in deliveries:
        time.sleep(max(0.0, started + delivery.at_s - time.monotonic()))
        for kind, sensor, profile in feeds:
            if delivery.depth if kind[0] == rs.stream.depth else delivery.colour:
                sensor.on_video_frame(_frame(rs, kind, delivery, profile))
    for sensor in recorded:
        sensor.stop()
        sensor.close()
    del sensor, recorded, recorder  # writes what is left
    return path


def _stream(rs: Any, kind: tuple[Any, Any, int], size: tuple[int, int], fps: int) -> Any:
    stream, lens = rs.video_stream(), rs.intrinsics()
    height, width = size
    stream.type, stream.fmt, stream.bpp = kind
    stream.index, stream.uid, stream.width, stream.height, stream.fps = 0, kind[2], width, height, fps
    lens.width, lens.height, lens.fx, lens.fy, lens.ppx, lens.ppy = width, height, width, width, width / 2, height / 2
    lens.model = rs.distortion.none
    stream.intrinsics = lens
    return stream


def _frame(rs: Any, kind: tuple[Any, Any, int], delivery: Delivery, profile: Any) -> Any:
    frame, image = rs.software_video_frame(), delivery.image
    frame.pixels = image[..., 2].astype(np.uint16) if kind[0] == rs.stream.depth else np.ascontiguousarray(image)
    frame.bpp, frame.stride = kind[2], kind[2] * image.shape[1]
    frame.timestamp, frame.domain = 1e3 * delivery.taken_s, rs.timestamp_domain.hardware_clock
    frame.frame_number, frame.profile = delivery.number, profile
    return frame


def record_video(path: Path | str, deliveries: Iterable[Delivery], fps: int = 30) -> Path:
    """Write an ``.mp4`` for OpenCVCamera; sides should be multiples of 16 pixels. Only the pictures count."""
    writer = imageio.get_writer(path, fps=fps, codec="libx264", quality=9, macro_block_size=2)
    with contextlib.closing(writer):
        for delivery in deliveries:
            writer.append_data(delivery.image)
    return Path(path)
