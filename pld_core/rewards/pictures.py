"""Pictures as PNG bytes, for the wire and for reports."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def png(image: np.ndarray) -> bytes:
    """uint8 ``[h, w, 3]`` RGB as a PNG file."""
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(content, format="PNG", compress_level=1)
    return content.getvalue()
