"""Shapes that scripted experts are made of: gentle limits and transitions."""

from __future__ import annotations

import numpy as np


def smoothstep(value: float, low: float, high: float) -> float:
    """0 at and below ``low``, 1 at and above ``high``, smooth between."""
    x = min(max((value - low) / (high - low), 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


def saturate(vector: np.ndarray, limit: float) -> np.ndarray:
    """The vector with its length bent smoothly below ``limit``."""
    length = float(np.linalg.norm(vector))
    return vector if length < 1e-9 else vector * (limit * np.tanh(length / limit) / length)
