"""Straight ways and the boxes that they must not enter, in metres, float64."""

from __future__ import annotations

import numpy as np


def is_in(position: np.ndarray, low: np.ndarray, high: np.ndarray) -> bool:
    """Whether a position ``[3]`` is within a box; its faces are not."""
    return bool(((low < position) & (position < high)).all())


def shrunk(boxes: np.ndarray, by_m: float) -> np.ndarray:
    """Boxes ``[K, 2, 3]`` whose faces all lie further in; negative: further out. None is turned inside out."""
    by = np.minimum(by_m, (boxes[:, 1] - boxes[:, 0]) / 4)
    return np.stack([boxes[:, 0] + by, boxes[:, 1] - by], axis=1)


def share_until(position: np.ndarray, way: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """The share of a way ``[3]``, from a position ``[3]`` outside of the box on, after which it enters; 1 if never."""
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = np.sort(np.stack([(low - position) / way, (high - position) / way]), axis=0)
    still = way == 0.0
    within = (low < position) & (position < high)
    enter = np.where(still, np.where(within, -np.inf, np.inf), crossings[0]).max()
    leave = np.where(still, np.inf, crossings[1]).min()
    return 1.0 if enter >= 1.0 or enter >= leave or leave <= 0.0 else max(0.0, float(enter))


def share_outside(position: np.ndarray, way: np.ndarray, boxes: np.ndarray) -> float:
    """As ``share_until``, of all boxes ``[K, 2, 3]``. What stands in a box may go anywhere but further in.

    That is, away from the nearest face or along it: the box then ends where it stands.
    """
    share = 1.0
    for low, high in boxes:
        if is_in(position, low, high):
            low, high = low.copy(), high.copy()
            depths = np.concatenate([position - low, high - position])
            axis = int(depths.argmin())
            (low if axis < 3 else high)[axis % 3] = position[axis % 3]
        share = min(share, share_until(position, way, low, high))
    return share
