"""What the learner carries from update to update, and what an actor needs of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np

from pld_core.errors import CheckpointError
from pld_core.rl.networks import Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LearnerState:
    """A pytree of arrays. ``critic`` is ``{"heads": ..., "encoder": ...}``; only heads have a target."""

    actor: Params
    critic: Params
    target: Params
    actor_moments: Params
    critic_moments: Params
    temperature_moments: Params
    log_temperature: jax.Array
    normalizer: Params
    key: jax.Array
    step: jax.Array  # critic updates done

    def to_arrays(self) -> dict[str, Any]:
        """Nested dictionary of numpy arrays, for ``save_checkpoint``."""
        return {f.name: jax.tree.map(np.array, getattr(self, f.name)) for f in fields(self)}

    def with_arrays(self, arrays: dict[str, Any]) -> LearnerState:
        """The state that was saved; this one (``learner.init``) says what shapes are expected."""
        mine = {f.name: getattr(self, f.name) for f in fields(self)}
        expected, structure = jax.tree.flatten_with_path(mine)
        given = dict(jax.tree.flatten_with_path(arrays)[0])
        leaves = []
        for path, leaf in expected:
            name = jax.tree_util.keystr(path)
            if path not in given:
                raise CheckpointError(f"Checkpoint lacks {name}; it was made by other learner settings.")
            saved = given.pop(path)
            if saved.shape != leaf.shape or saved.dtype != leaf.dtype:
                raise CheckpointError(
                    f"Checkpoint's {name} is {saved.dtype}{saved.shape}, this learner's is "
                    f"{leaf.dtype}{leaf.shape}; load it with the settings it was made with."
                )
            leaves.append(jax.numpy.array(saved))
        if given:
            surplus = jax.tree_util.keystr(next(iter(given)))
            raise CheckpointError(f"Checkpoint holds {surplus}, which this learner's settings do not have.")
        return LearnerState(**jax.tree.unflatten(structure, leaves))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ActorParams:
    """Weights that leave the learner: actor, image encoder (may be empty) and normaliser."""

    actor: Params
    encoder: Params
    normalizer: Params
