"""From logits to a decision: temperature, expected calibration error, threshold.

``N`` frames. A false positive counts twice: per frame, and per failed episode, where one is enough to end
the episode with a reward that it does not deserve. That is what a learner finds and repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pld_core.errors import ConfigError
from pld_core.rewards.debounce import Debounce

_BINS = 15
_HIGHEST = 30.0  # of a logit


@dataclass(frozen=True)
class Calibration:
    """probability = sigmoid(logit / temperature + offset).

    The temperature is for over-confidence; the offset undoes the balance of the training batches, in which
    success is far more frequent than in an episode.
    """

    temperature: float = 1.0
    offset: float = 0.0

    def probability(self, logits: np.ndarray) -> np.ndarray:
        scaled = np.clip(np.asarray(logits, np.float64) / self.temperature + self.offset, -_HIGHEST, _HIGHEST)
        return 1.0 / (1.0 + np.exp(-scaled))


def calibrate(logits: np.ndarray, success: np.ndarray, iterations: int = 50) -> Calibration:
    """Maximum likelihood on validation frames (Platt 1999, with his smoothed targets), by Newton's method."""
    z, positives = np.asarray(logits, np.float64), int(success.sum())
    target = np.where(success, (positives + 1) / (positives + 2), 1 / (len(z) - positives + 2))
    slope, offset = 1.0, 0.0
    for _ in range(iterations):
        p = 1.0 / (1.0 + np.exp(-np.clip(slope * z + offset, -_HIGHEST, _HIGHEST)))
        weight = np.maximum(p * (1 - p), 1e-9)
        gradient = np.array([np.sum((p - target) * z), np.sum(p - target)])
        hessian = np.array([[np.sum(weight * z * z), np.sum(weight * z)], [np.sum(weight * z), np.sum(weight)]])
        change = np.linalg.solve(hessian + 1e-6 * np.eye(2), gradient)
        change *= min(1.0, 1.0 / (np.abs(change).max() + 1e-12))
        slope, offset = max(slope - change[0], 1e-3), offset - change[1]
    return Calibration(1.0 / slope, float(offset))


def calibration_error(probability: np.ndarray, success: np.ndarray) -> float:
    """Expected calibration error: mean distance of confidence and frequency over bins of probability."""
    error = 0.0
    for members, confidence, frequency in reliability(probability, success):
        error += members * abs(confidence - frequency)
    return error / max(1, len(probability))


def reliability(probability: np.ndarray, success: np.ndarray) -> list[tuple[int, float, float]]:
    """``(frames, mean probability, share of successes)`` of each bin that is not empty."""
    bins = np.minimum((np.asarray(probability) * _BINS).astype(int), _BINS - 1)
    return [
        (int(inside.sum()), float(probability[inside].mean()), float(success[inside].mean()))
        for k in range(_BINS)
        if (inside := bins == k).any()
    ]


def choose_threshold(
    episodes: Sequence[tuple[np.ndarray, np.ndarray]], debounce: Debounce, max_false_positive_rate: float
) -> float:
    """A threshold from validation episodes ``(probability [N], success [N])``.

    The lowest one that keeps the rate of false positives within bounds, per negative frame and per failed
    episode, is where recall is best. It lies above all but the k highest of n failed episodes, and of new ones
    (k + 1) / (n + 1) are expected above it: that is what k is chosen for, and k / n would promise too much. With
    fewer failed episodes than 1 / max_false_positive_rate, k is 0 and the bound is not kept for sure.
    From there it moves up to the middle (of the log odds) of the range in which no further success is missed,
    because both ends were measured on few episodes.
    """
    if not 0 < max_false_positive_rate < 1:
        raise ConfigError(f"max_false_positive_rate is {max_false_positive_rate}; valid is between 0 and 1.")
    negatives = np.concatenate([p[~s] for p, s in episodes])
    by_frame = float(np.quantile(negatives, 1.0 - max_false_positive_rate))
    failed = sorted(_peak(p, debounce) for p, s in episodes if not s.any())
    allowed = max(0, int(max_false_positive_rate * (len(failed) + 1)) - 1)
    by_episode = failed[-1 - allowed] if failed else 0.0
    lowest = np.nextafter(max(by_frame, by_episode), 1.0)
    reached = [_peak(p, debounce) for p, s in episodes if debounce.first(s) is not None]
    kept = [peak for peak in reached if peak > lowest]
    if not kept:
        return float(lowest)
    return float(_from_odds((_log_odds(lowest) + _log_odds(min(kept))) / 2))


def _peak(probability: np.ndarray, debounce: Debounce) -> float:
    """The highest threshold at which the debounced verdict of an episode is still success."""
    if len(probability) < debounce.needed:
        return 0.0
    padded = np.concatenate([np.zeros(debounce.window - 1), probability])
    windows = np.lib.stride_tricks.sliding_window_view(padded, debounce.window)
    return float(np.sort(windows, axis=1)[:, -debounce.needed].max())


def _log_odds(p: float) -> float:
    p = min(max(p, 1e-12), 1 - 1e-12)
    return float(np.log(p) - np.log1p(-p))


def _from_odds(value: float) -> float:
    return float(1.0 / (1.0 + np.exp(-value)))
