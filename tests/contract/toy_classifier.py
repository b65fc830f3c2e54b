"""A classifier for pictures that are bright at success: made by hand, so that no test has to train one."""

from __future__ import annotations

import functools

import numpy as np

from pld_core.rewards.classifier import SuccessClassifier
from pld_core.rewards.classifier.calibration import Calibration
from pld_core.rewards.classifier.dataset import Frames
from pld_core.rewards.classifier.drift import DriftMonitor
from pld_core.rewards.classifier.memory_training import MemoryTraining, train_memory
from pld_core.rewards.classifier.model import Decision
from pld_core.rewards.classifier.network import NetworkShape, init_network, judge_many
from pld_core.rewards.classifier.training import ClassifierTraining, train_classifier
from pld_core.rewards.debounce import Debounce
from pld_core.types import Observation, TimeStep
from pld_core.vla.model import CompactVLAConfig

SIZE = 16
SHAPE = NetworkShape((("top", SIZE, SIZE),), 0, (8,), CompactVLAConfig(stem=8, channels=4, keypoints=2), 4, 2)
NAMES = ("x_m", "y_m")


def picture(bright: bool, seed: int = 0) -> np.ndarray:
    """uint8 [16, 16, 3] with a square that is bright or dark."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 110, (SIZE, SIZE, 3))
    corner = rng.integers(2, 8, 2)
    image[corner[0] : corner[0] + 6, corner[1] : corner[1] + 6] = 250 if bright else 5
    return image.astype(np.uint8)


def step(bright: bool, proprio: tuple[float, float] = (0.0, 0.0), seed: int = 0) -> TimeStep:
    return TimeStep(Observation({"top": picture(bright, seed)}, np.array(proprio, np.float32), "light up"))


def frames(episodes: int = 40, ticks: int = 6) -> Frames:
    """Every second episode is bright in its last two frames."""
    success = np.array([[k % 2 == 0 and t >= ticks - 2 for t in range(ticks)] for k in range(episodes)])
    images = np.stack([picture(bool(s), seed) for seed, s in enumerate(success.ravel())])
    return Frames(
        {"top": images},
        np.zeros((success.size, 2), np.float32),
        success.ravel(),
        np.repeat(np.arange(episodes), ticks),
        tuple(f"episode {k}" for k in range(episodes)),
        ("toy",) * episodes,
        "light up",
    )


@functools.cache
def trained() -> tuple:
    """Weights, statistics and drift monitor of a classifier that works (a few seconds)."""
    data = frames()
    params, stats = init_network(SHAPE, 0)
    training = ClassifierTraining(steps=60, batch_size=16, mining_rounds=1, learning_rate=1e-2)
    params, stats = train_classifier(params, stats, SHAPE, data, training)
    memory = MemoryTraining(steps=100, batch_size=16, learning_rate=1e-2)
    params, stats = train_memory(params, stats, SHAPE, data, memory)
    features = judge_many(SHAPE, params, stats, data.images, data.proprio, data.episode)[1]
    return params, stats, DriftMonitor.fit(features, features)


def classifier(debounce: Debounce | None = None, predicate: str = "", threshold: float = 0.5) -> SuccessClassifier:
    params, stats, drift = trained()
    decision = Decision(Calibration(), threshold, debounce or Debounce(2, 3), predicate, NAMES)
    return SuccessClassifier(SHAPE, params, stats, decision, drift, {"made": "by hand"})
