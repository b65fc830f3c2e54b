"""From what a camera captures to what policies see."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pld_core.stations import CameraConfig


def policy_view(image: np.ndarray, camera: CameraConfig) -> np.ndarray:
    """The middle square of the crop, uint8 ``[policy_size, policy_size, 3]``; the image itself if it is just that."""
    if camera.crop is not None:
        left, top, width, height = camera.crop
        image = image[top : top + height, left : left + width]
    height, width = image.shape[:2]
    size = camera.policy_size
    if (height, width) == (size, size):
        return image
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    return np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BOX))
