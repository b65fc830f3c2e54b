"""An actor as plain arrays and settings, so that it can act in another process."""

from __future__ import annotations

import dataclasses
import hashlib
import operator
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from pld_core.errors import CheckpointError, PLDError
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
    """The actor of a ``snapshot``; bit for bit the same residuals. Raises CheckpointError if it is none."""
    try:
        config = build(LearnerConfig, dict(settings["config"]), source="the actor's settings")
        cameras = {name: (shape[0], shape[1], shape[2]) for name, shape in settings["cameras"].items()}
        learner = Learner(config, settings["state_dim"], settings["action_dim"], cameras)
        params = ActorParams(arrays["actor"], arrays.get("encoder", {}), arrays["normalizer"])
        _check(params, _expected(config, learner.state_dim, learner.action_dim, tuple(learner.cameras.items())))
        return LearnerActor(learner, params, operator.index(settings["min_lanes"]))
    except (PLDError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"These are not the weights of an actor, or of one with other settings: {reason}"
        ) from error


@lru_cache(maxsize=8)  # new weights arrive between two ticks, and tracing takes longer than one
def _expected(
    config: LearnerConfig, state_dim: int, action_dim: int, cameras: tuple[tuple[str, tuple[int, int, int]], ...]
) -> ActorParams:
    """Names, shapes and types of the weights of such an actor."""
    learner = Learner(config, state_dim, action_dim, dict(cameras))
    return jax.eval_shape(lambda: learner.actor_params(learner.init(0)))


def _check(given: ActorParams, expected: ActorParams) -> None:
    """Raise ValueError unless names, shapes and types are the same."""
    if jax.tree.structure(given) != jax.tree.structure(expected):
        names, wanted = (
            {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)} for tree in (given, expected)
        )
        raise ValueError(f"it lacks {sorted(wanted - names)} and has {sorted(names - wanted)} too many.")
    leaves = zip(jax.tree.leaves_with_path(given), jax.tree.leaves(expected), strict=True)
    for (path, leaf), wanted_leaf in leaves:
        array = np.asarray(leaf)
        if array.shape != wanted_leaf.shape or array.dtype != wanted_leaf.dtype:
            raise ValueError(
                f"{jax.tree_util.keystr(path)} is {array.dtype}{array.shape}, it must be "
                f"{wanted_leaf.dtype}{wanted_leaf.shape}."
            )
