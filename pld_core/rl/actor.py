"""The learner's policy behind the ``ResidualActor`` interface: numpy in, numpy out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from pld_core.errors import ContractError, NonFiniteError
from pld_core.rl.learner import Learner
from pld_core.rl.state import ActorParams


@dataclass(frozen=True)
class LearnerActor:
    """A snapshot of the policy. New weights are a new actor, so a running episode can never see half
    of an update.

    Lanes are padded to the next power of two, at least ``min_lanes``, so that a handful of compiled
    sizes serves any number of lanes.
    """

    learner: Learner
    params: ActorParams
    min_lanes: int = 1

    def __post_init__(self) -> None:
        # Weights from a checkpoint are numpy: move them once, not at every tick.
        object.__setattr__(self, "params", jax.tree.map(jnp.asarray, self.params))

    def act(
        self, state: np.ndarray, base_action: np.ndarray, images: Mapping[str, np.ndarray], seeds: np.ndarray | None
    ) -> np.ndarray:
        """Residuals float32 ``[L, A]`` in [-1, 1]; see ``ResidualActor``."""
        lanes = len(state)
        wanted = [("state", state, self.learner.state_dim), ("base_action", base_action, self.learner.action_dim)]
        for name, values, dim in wanted:
            if np.shape(values) != (lanes, dim):
                raise ContractError(f"Actor got {name} of shape {np.shape(values)}; expected {(lanes, dim)}.")
        if missing := sorted(set(self.learner.cameras) - set(images)):
            raise ContractError(f"Actor got no frames of {', '.join(missing)}; its image encoder needs them.")
        if lanes == 0:
            return np.zeros((0, self.learner.action_dim), np.float32)
        size = self._bucket(lanes)
        residual = self.learner.act(
            self.params,
            _pad(np.asarray(state, np.float32), size),
            _pad(np.asarray(base_action, np.float32), size),
            {name: _pad(images[name], size) for name in self.learner.cameras},
            None if seeds is None else _pad(np.asarray(seeds, np.uint32), size),
        )
        result = np.asarray(residual)[:lanes].copy()
        if not np.isfinite(result).all():
            lane = int(np.argwhere(~np.isfinite(result))[0][0])
            raise NonFiniteError(f"The residual of lane {lane} is not finite: its state or the weights are faulty.")
        return result

    def _bucket(self, lanes: int) -> int:
        return max(self.min_lanes, 1 << (lanes - 1).bit_length())


def _pad(values: np.ndarray, size: int) -> np.ndarray:
    """Repeat the first lane: padding must not bring values that no sensor delivered."""
    if len(values) == size:
        return values
    return np.concatenate([values, np.repeat(values[:1], size - len(values), axis=0)])
