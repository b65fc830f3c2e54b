"""Pictures to mp4 and back, with the ffmpeg that comes with imageio.

A key frame every second frame and none that refers to a later one: training reads frames in any order, and episodes
are joined without being encoded again.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pld_core.data.lerobot.features import pixel_format
from pld_core.errors import StorageError
from pld_core.storage import storage_errors

_ENCODERS = {
    "h264": ("-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-bf", "0"),
    "av1": ("-c:v", "libsvtav1", "-preset", "10", "-crf", "30", "-svtav1-params", "pred-struct=1"),
}
_KEY_FRAME_EVERY = "2"
_TIMESCALE = 1000  # ticks of a frame in the file, so that times are exact at any rate


class DamagedDatasetError(StorageError):
    """A file of a dataset is missing, cut short or not what it should be."""


def write_video(path: Path, frames: np.ndarray, fps: int, codec: str, after: Path | None = None) -> None:
    """Replace ``path`` by the frames (uint8 ``[N, h, w, 3]``), behind those of the video ``after`` if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    joined = path.with_name(f".{path.stem}-joined.mp4.{os.getpid()}.tmp")
    with storage_errors(path):
        try:
            _encode(temporary, frames, fps, codec)
            if after is not None:
                _join(joined, (after, temporary), fps)
                os.replace(joined, temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
            joined.unlink(missing_ok=True)


def read_video(path: Path, first: int, count: int, fps: int, size: tuple[int, int]) -> np.ndarray:
    """Frames ``first`` to ``first + count`` of a video, uint8 ``[count, h, w, 3]``. size: height, width.

    Raises DamagedDatasetError, naming the file, if they are not all there.
    """
    if not path.is_file():
        raise DamagedDatasetError(f"The video {path} is missing. Copy it from where the dataset was made.")
    seek = ["-ss", f"{(first - 0.5) / fps:.6f}"] if first else []  # half a frame before: none is missed by rounding
    picked = ["-frames:v", str(count), "-fps_mode", "passthrough"]
    done = _ffmpeg([*seek, "-i", str(path), *picked, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"])
    shape = (count, *size, 3)
    if done.returncode or len(done.stdout) != np.prod(shape):
        held = len(done.stdout) // int(np.prod(shape[1:]))
        raise DamagedDatasetError(
            f"The video {path} is cut short or damaged: of frames {first} to {first + count - 1} it gave {held} of "
            f"{size[1]} x {size[0]} pixels ({_reason(done)}). Copy it again, or export again."
        )
    return np.frombuffer(done.stdout, np.uint8).reshape(shape)


def _encode(path: Path, frames: np.ndarray, fps: int, codec: str) -> None:
    _, height, width, _ = frames.shape
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0"]
    encoder = [*_ENCODERS[codec], "-g", _KEY_FRAME_EVERY, "-pix_fmt", pixel_format(height, width)]
    _write([*given, *encoder], path, fps, np.ascontiguousarray(frames).tobytes())


def _join(path: Path, parts: Sequence[Path], fps: int) -> None:
    names = (str(part.resolve()).replace("'", r"'\''") for part in parts)
    listing = "".join(f"file 'file:{name}'\n" for name in names)
    given = ["-f", "concat", "-safe", "0", "-protocol_whitelist", "file,pipe,fd", "-i", "pipe:0"]
    _write([*given, "-c", "copy"], path, fps, listing.encode())


def _write(arguments: Sequence[str], path: Path, fps: int, content: bytes) -> None:
    shape = ["-threads", "1", "-video_track_timescale", str(fps * _TIMESCALE), "-f", "mp4"]
    done = _ffmpeg([*arguments, *shape, "-y", str(path)], content)
    if done.returncode:
        raise StorageError(f"ffmpeg could not write {path}: {_reason(done)}")


def _ffmpeg(arguments: Sequence[str], content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-threads", "1", *arguments]
    return subprocess.run(command, input=content, capture_output=True, check=False)


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "ffmpeg said nothing"
