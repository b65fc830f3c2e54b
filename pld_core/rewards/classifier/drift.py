"""An alarm for pictures that are unlike what the classifier was trained on: a moved camera, other light, a hand.

Statistic: squared Mahalanobis distance of the encoder's features within the subspace that the training
frames fill, plus the scaled rest outside of it; the threshold is a quantile on validation episodes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

QUANTILE = 0.999  # of validation frames that raise no alarm
MARGIN = 1.2  # times that quantile, since it was measured on few episodes
DIMENSIONS = 32


@dataclass(frozen=True)
class DriftMonitor:
    """mean, scale ``[F]``; axes ``[F, K]`` of the scaled features; spread ``[K]`` along them; rest: mean square
    distance outside of them; threshold: of the statistic."""

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    spread: np.ndarray
    rest: float
    threshold: float = float("inf")

    @classmethod
    def fit(cls, training: np.ndarray, validation: np.ndarray) -> DriftMonitor:
        """From features ``[N, F]`` of training frames, with the threshold of validation frames ``[M, F]``."""
        mean, scale = training.mean(axis=0), training.std(axis=0) + 1e-3
        scaled = (training - mean) / scale
        values, vectors = np.linalg.eigh(np.cov(scaled, rowvar=False))
        keep = min(DIMENSIONS, scaled.shape[1])
        axes = vectors[:, ::-1][:, :keep]
        spread = np.sqrt(np.maximum(values[::-1][:keep], 1e-6))
        outside = scaled - scaled @ axes @ axes.T
        rest = float(np.square(outside).sum(axis=1).mean()) + 1e-6
        mean, scale, axes, spread = (a.astype(np.float32) for a in (mean, scale, axes, spread))
        fitted = cls(mean, scale, axes, spread, rest)
        threshold = MARGIN * float(np.quantile(fitted.statistic(validation), QUANTILE))
        return dataclasses.replace(fitted, threshold=threshold)

    def statistic(self, features: np.ndarray) -> np.ndarray:
        """``[N]`` from features ``[N, F]``; about 2 for frames like those in training."""
        scaled = (np.asarray(features, np.float32) - self.mean) / self.scale
        inside = scaled @ self.axes
        outside = np.square(scaled - inside @ self.axes.T).sum(axis=1)
        return np.square(inside / self.spread).mean(axis=1) + outside / self.rest

    def drifted(self, features: np.ndarray) -> np.ndarray:
        """bool ``[N]``."""
        return self.statistic(features) > self.threshold
