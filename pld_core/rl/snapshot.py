"""An actor as plain arrays and settings, so that it can act in another process."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pld_core.errors import CheckpointError
from pld_core.rl.actor import LearnerActor
from pld_core.rl.config import LearnerConfig
from pld_core.rl.learner import Learner
from pld_core.rl.state import ActorParams
from pld_core.strict import build

Arrays = dict[str, Any]


def snapshot(actor: LearnerActor) -> tuple[str, Arrays, dict[str, Any]]:
    """``(version, arrays, settings)``; the version is a hash of all that decides what the actor does."""
    params = {f.name: jax.tree.map(np.asarray, getattr(actor.params, f.name)) for f in dataclasses.fields(ActorParams)}
    learner = actor.learner
    settings = {
        "config": dataclasses.asdict(learner.config),
        "state_dim": learner.state_dim,
        "action_dim": learner.action_dim,
        "cameras": {name: list(shape) for name, shape in learner.cameras.items()},
        "min_lanes": actor.min_lanes,
    }
    digest = hashlib.sha256(repr(settings).encode())
    for path, leaf in jax.tree.leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode() + leaf.tobytes())
    return digest.hexdigest()[:16], params, settings


def restore(arrays: Mapping[str, Any], settings: Mapping[str, Any]) -> LearnerActor:
    """The actor of a ``snapshot``; bit for bit the same residuals."""
    try:
        config = build(LearnerConfig, dict(settings["config"]), source="the actor's settings")
        cameras = {name: (shape[0], shape[1], shape[2]) for name, shape in settings["cameras"].items()}
        learner = Learner(config, settings["state_dim"], settings["action_dim"], cameras)
        params = ActorParams(arrays["actor"], arrays.get("encoder", {}), arrays["normalizer"])
        return LearnerActor(learner, params, settings["min_lanes"])
    except (KeyError, IndexError, TypeError) as error:
        raise CheckpointError(f"These are not the weights of an actor: {error!r}.") from error
