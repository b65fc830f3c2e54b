"""Statistics of episodes, as LeRobot wants them for normalisation: per episode, and merged over all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Statistics = dict[str, dict[str, Any]]  # {key: {"min" | "max" | ... : nested list}}

_QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_MOST_FRAMES = 100  # of an episode's pictures; neighbours hardly differ


def statistics_of(columns: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray]) -> Statistics:
    """columns: ``[T]`` or ``[T, n]``, answered per entry; images: uint8 ``[T, h, w, 3]``, per channel in 0..1."""
    found = {key: _of_values(values) for key, values in columns.items()}
    return {key: _of_pictures(frames) for key, frames in images.items()} | found


def merge(before: Statistics | None, more: Statistics) -> Statistics:
    """Of both together. Exact but for the quantiles, whose means weighted by count stand in, as in LeRobot."""
    if not before:
        return more
    return {key: _merged(before[key], more[key]) for key in more}


def _of_values(values: np.ndarray) -> dict[str, Any]:
    rows = np.asarray(values, np.float64).reshape(len(values), -1)
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    found |= dict(zip(_QUANTILES, np.quantile(rows, list(_QUANTILES.values()), axis=0), strict=True))
    return {name: value.tolist() for name, value in found.items()} | {"count": [len(rows)]}


def _of_pictures(frames: np.ndarray) -> dict[str, Any]:
    """From the histogram of each channel: exact, and much quicker than sorting millions of pixels."""
    picked = frames[np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _MOST_FRAMES)).round().astype(int))]
    channels = [_of_histogram(np.bincount(picked[..., c].ravel(), minlength=256)) for c in range(3)]
    found = {name: [[[channel[name] / 255]] for channel in channels] for name in channels[0]}
    return found | {"count": [len(picked)]}


def _of_histogram(counts: np.ndarray) -> dict[str, float]:
    levels, total = np.arange(256), counts.sum()
    mean = float(counts @ levels / total)
    seen = np.flatnonzero(counts)
    found = {"min": float(seen[0]), "max": float(seen[-1]), "mean": mean}
    found["std"] = float(np.sqrt(counts @ (levels - mean) ** 2 / total))
    below = np.cumsum(counts)
    return found | {name: float(np.searchsorted(below, q * total)) for name, q in _QUANTILES.items()}


def _merged(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    before = {name: np.asarray(value, np.float64) for name, value in a.items()}
    more = {name: np.asarray(value, np.float64) for name, value in b.items()}
    share = float(more["count"][0] / (before["count"][0] + more["count"][0]))
    found = {name: (1 - share) * before[name] + share * more[name] for name in ("mean", *_QUANTILES)}
    spread = share * (1 - share) * (more["mean"] - before["mean"]) ** 2
    found["std"] = np.sqrt((1 - share) * before["std"] ** 2 + share * more["std"] ** 2 + spread)
    found |= {"min": np.minimum(before["min"], more["min"]), "max": np.maximum(before["max"], more["max"])}
    return {name: value.tolist() for name, value in found.items()} | {"count": [a["count"][0] + b["count"][0]]}
