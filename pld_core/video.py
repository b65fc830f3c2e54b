"""Short MP4 videos that every browser plays (H.264, yuv420p)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np

from pld_core.errors import ContractError, StorageError
from pld_core.storage import storage_errors

CAPTION_HEIGHT = 0.09  # of the picture's height
_MINIMUM_CAPTION = 16  # pixels; smaller text cannot be read
_BAR, _INK = (22, 24, 29), (240, 242, 246)


def write_video(path: Path, frames: np.ndarray, fps: int = 20, caption: str = "") -> Path:
    """Write ``frames`` (uint8 ``[N, height, width, 3]``, RGB) so that ``path`` is complete or untouched.

    caption: a line in a bar above the picture, such as ``"base VLA: fails (seed 7)"``.
    Odd sizes are padded by one pixel, because yuv420p needs even ones.
    """
    import imageio_ffmpeg

    frames = _checked(frames)
    if caption:
        frames = add_caption(frames, caption)
    frames = _even(frames)
    _, height, width, _ = frames.shape
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            writer = imageio_ffmpeg.write_frames(
                str(temporary),
                (width, height),
                fps=fps,
                codec="libx264",
                pix_fmt_out="yuv420p",
                quality=None,  # type: ignore[arg-type]  (the rate is set below)
                macro_block_size=1,
                output_params=["-crf", "20", "-preset", "veryfast", "-movflags", "+faststart", "-threads", "1"],
                ffmpeg_log_level="error",
            )
            writer.send(None)
            for frame in frames:
                writer.send(np.ascontiguousarray(frame))
            writer.close()
            if not temporary.exists() or temporary.stat().st_size == 0:
                raise OSError("ffmpeg wrote nothing")
            os.replace(temporary, path)
        except OSError as error:  # ffmpeg's own complaint (a full disk, for instance) comes as text
            if error.errno in (None, errno.EPIPE):
                raise StorageError(f"Cannot write {path}: {error}") from error
            raise
        finally:
            temporary.unlink(missing_ok=True)
    return path


def add_caption(frames: np.ndarray, text: str) -> np.ndarray:
    """``frames`` with a bar of text above, uint8 ``[N, height + bar, width, 3]``."""
    from PIL import Image, ImageDraw, ImageFont

    count, height, width, _ = frames.shape
    bar = max(_MINIMUM_CAPTION, round(height * CAPTION_HEIGHT))
    picture = Image.new("RGB", (width, bar), _BAR)
    draw = ImageDraw.Draw(picture)
    size = bar * 0.62
    while True:  # shrink until the line fits
        font = ImageFont.load_default(size)
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        if right - left <= width - 6 or size <= 6:
            break
        size *= 0.92
    draw.text(((width - right - left) / 2, (bar - bottom - top) / 2), text, fill=_INK, font=font)
    title = np.broadcast_to(np.asarray(picture, np.uint8), (count, bar, width, 3))
    return np.concatenate([title, frames], axis=1)


def _checked(frames: np.ndarray) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ContractError(
            f"A video needs frames as uint8 [N, height, width, 3] with N > 0; got {frames.dtype} {list(frames.shape)}."
        )
    return frames


def _even(frames: np.ndarray) -> np.ndarray:
    _, height, width, _ = frames.shape
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
