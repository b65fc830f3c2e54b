"""What the nodes of a rehearsal know of the scene in the arm's simulator: a base policy and a reward."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass

import numpy as np

from pld_core.types import Observation, TimeStep
from pld_ros.benches.scenes import JointWatch, Scene, load_scene

WHERE = "PLD_REHEARSAL"  # environment variable of the nodes: JSON of a Place
LEAD = slice(7, 10), slice(10, 13)  # in the proprioception: how far the arm's target is ahead


@dataclass(frozen=True)
class Place:
    """Which scene stands where."""

    host: str
    scene: str
    seed: int


@functools.cache
def _here() -> tuple[Scene, JointWatch]:
    place = Place(**json.loads(os.environ[WHERE]))
    return load_scene(place.scene, place.seed), JointWatch(place.host)


def _seen() -> Scene:
    """The scene as it is now."""
    scene, watch = _here()
    scene.follow(watch.newest())
    return scene


def oracle(observation: Observation) -> np.ndarray:
    """The base policy of the rehearsal: the task's scripted expert, float32 [7]."""
    position, rotation = (observation.proprio[part].astype(np.float64) for part in LEAD)
    return _seen().act(position, rotation)


class SceneSuccess:
    """The reward of the rehearsal: whether the task is done in the arm's simulator. See interfaces.RewardModel."""

    sees_for_itself = True

    def reset(self) -> None:
        """Nothing to forget."""

    def score(self, step: TimeStep) -> tuple[float, bool]:
        success = _seen().succeeded()
        return float(success), success
