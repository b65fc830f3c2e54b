"""One of our cameras as a served policy wants it, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from pld_core.errors import ConfigError, ContractError


@dataclass(frozen=True)
class ImageKey:
    """One of our cameras as a policy wants it: ``[height, width, 3]``, or ``[3, height, width]``, always uint8 RGB.

    Without a size it goes as it is. pad: black borders keep its shape; stretch: there are none. mirror: left and right
    change places. crop: share of its area that is kept, from the middle, before anything else.
    """

    camera: str
    height: int | None = None
    width: int | None = None
    fit: Literal["pad", "stretch"] = "pad"
    mirror: bool = False
    channels_first: bool = False
    crop: float = 1.0

    def __post_init__(self) -> None:
        if (self.height is None) != (self.width is None) or min(self.height or 1, self.width or 1) < 1:
            raise ConfigError(
                f"The picture of {self.camera!r} has height {self.height} and width {self.width}; give both, from 1 "
                "on, or neither."
            )
        if not 0.0 < self.crop <= 1.0:
            raise ConfigError(f"crop of {self.camera!r} is {self.crop}; valid is the share that is kept, up to 1.")

    def write(self, image: np.ndarray) -> np.ndarray:
        image = middle(image, self.crop)
        if self.height and self.width and image.shape[:2] != (self.height, self.width):
            image = resized(image, self.height, self.width, self.fit)
        image = image[:, ::-1] if self.mirror else image
        return np.ascontiguousarray(image.transpose(2, 0, 1) if self.channels_first else image)

    def read(self, key: str, image: Any, size: tuple[int, int] | None = None) -> np.ndarray:
        """What ``write`` made of one of our pictures, ``[height, width, 3]``; of ``size``, where that is known."""
        axis = 0 if self.channels_first else -1
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.dtype != np.uint8 or image.shape[axis] != 3:
            shape = "[3, height, width]" if self.channels_first else "[height, width, 3]"
            raise ContractError(f"{key} is {described(image)}; valid is a picture, uint8 {shape}.")
        picture = image.transpose(1, 2, 0) if self.channels_first else image
        if self.height and self.width and picture.shape[:2] != (self.height, self.width):
            raise ContractError(f"{key} is {described(image)}; valid are {self.height} x {self.width} pixels.")
        picture = picture[:, ::-1] if self.mirror else picture
        if size is None or picture.shape[:2] == size:
            return picture
        return resized(without_borders(picture, size) if self.fit == "pad" else picture, *size, "stretch")


def middle(image: np.ndarray, share: float) -> np.ndarray:
    """``share`` of its area; sides keep their ratio."""
    height, width = (max(1, round(size * share**0.5)) for size in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def without_borders(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What is left of a padded picture of a camera of ``size`` when its black borders are cut off."""
    height, width = image.shape[:2]
    ratio = min(height / size[0], width / size[1])
    inner = round(size[0] * ratio), round(size[1] * ratio)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    return np.ascontiguousarray(image[top : top + inner[0], left : left + inner[1]])


def resized(image: np.ndarray, height: int, width: int, fit: str) -> np.ndarray:
    """uint8 ``[height, width, 3]``, bilinear; with ``pad`` as large as fits, in the middle of black."""
    source_height, source_width = image.shape[:2]
    ratio = min(height / source_height, width / source_width)
    inner = (width, height) if fit == "stretch" else (round(source_width * ratio), round(source_height * ratio))
    scaled = np.asarray(Image.fromarray(image).resize(inner, Image.Resampling.BILINEAR))
    if fit == "stretch":
        return scaled
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - scaled.shape[0]) // 2, (width - scaled.shape[1]) // 2
    canvas[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    return canvas


def described(value: Any) -> str:
    if isinstance(value, (np.ndarray, np.generic)):
        return f"{value.dtype} {value.shape}"
    text = repr(value)
    return f"{text[:60]}... ({type(value).__name__})" if len(text) > 60 else f"{text} ({type(value).__name__})"
