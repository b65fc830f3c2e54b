"""Residual soft actor-critic with Cal-QL warm start: pure updates on ``LearnerState``.

Shapes: ``K`` critic updates in one call, ``B`` batch, ``L`` lanes, ``S`` state, ``A`` action.
One call of ``update`` runs all K critic updates and K / ratio actor updates inside one compiled
scan, so Python is entered once per call and not once per gradient step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pld_core.data.replay import Batch
from pld_core.errors import ConfigError, ContractError, NonFiniteError
from pld_core.rl import losses, networks, updates
from pld_core.rl.config import LearnerConfig
from pld_core.rl.encoder import init_encoder, latent_size
from pld_core.rl.optim import init_adam
from pld_core.rl.state import ActorParams, LearnerState

_STD_FLOOR = 1e-3  # a constant input must not be blown up


class Learner:
    """Settings and sizes; every method is a function of the state it is given.

    ``update`` and ``calql_update`` consume the state they get (its buffers are donated): keep only
    the one they return.
    """

    def __init__(
        self,
        config: LearnerConfig,
        state_dim: int,
        action_dim: int,
        image_specs: Mapping[str, tuple[int, int, int]] | None = None,
    ) -> None:
        if config.encoder != "features" and not image_specs:
            raise ConfigError(f"encoder {config.encoder!r} needs image_specs; give cameras or use 'features'.")
        if config.state_groups and sum(config.state_groups) != state_dim:
            raise ConfigError(f"state_groups {config.state_groups} do not add up to the state's size, {state_dim}.")
        self.config, self.state_dim, self.action_dim = config, state_dim, action_dim
        self.cameras = {} if config.encoder == "features" else dict(image_specs or {})

    def init(self, seed: int) -> LearnerState:
        """A fresh state; its mode residual is exactly 0."""
        config = self.config
        key, actor_key, critic_key, encoder_key = jax.random.split(jax.random.PRNGKey(seed), 4)
        width = self.state_dim + latent_size(config)
        actor = networks.init_actor(actor_key, config, width, self.action_dim)
        heads = networks.init_critics(critic_key, config, width, self.action_dim)
        critic = {"heads": heads, "encoder": init_encoder(encoder_key, config, self.cameras)}
        log_temperature = jnp.asarray(math.log(config.init_temperature), jnp.float32)
        return LearnerState(
            actor=actor,
            critic=critic,
            target=jax.tree.map(jnp.copy, heads),
            actor_moments=init_adam(actor),
            critic_moments=init_adam(critic),
            temperature_moments=init_adam(log_temperature),
            log_temperature=log_temperature,
            normalizer={"mean": jnp.zeros(self.state_dim), "inverse_std": jnp.ones(self.state_dim)},
            key=key,
            step=jnp.zeros((), jnp.int32),
        )

    def with_normalizer(self, state: LearnerState, mean: np.ndarray, std: np.ndarray) -> LearnerState:
        """Fix the input scaling, once, from the first data (``replay.state_moments``).

        Every group of the state gets the same share of the inputs' variance, or a long plan would
        drown the few numbers that say where the target is.
        """
        if np.shape(mean) != (self.state_dim,) or np.shape(std) != (self.state_dim,):
            raise ContractError(
                f"The normaliser wants two [{self.state_dim}] arrays; given {np.shape(mean)} and {np.shape(std)}."
            )
        if not (np.isfinite(mean).all() and np.isfinite(std).all()):
            raise NonFiniteError("Normaliser statistics are not finite; the stored states are faulty.")
        groups = self.config.state_groups or (self.state_dim,)
        share = np.concatenate([np.full(size, math.sqrt(self.state_dim / len(groups) / size)) for size in groups])
        inverse = share / np.maximum(np.asarray(std, np.float32), _STD_FLOOR)
        normalizer = {"mean": jnp.array(mean, jnp.float32), "inverse_std": jnp.array(inverse, jnp.float32)}
        return dataclasses.replace(state, normalizer=normalizer)

    def update(self, state: LearnerState, batches: Batch, xi: float) -> tuple[LearnerState, losses.Metrics]:
        """K soft actor-critic updates on ``[K, B, ...]`` batches; metrics are means over them."""
        self._check(batches)
        return updates.update(self.config, "sac", state, batches, jnp.float32(xi))

    def critic_update(self, state: LearnerState, batches: Batch, xi: float) -> tuple[LearnerState, losses.Metrics]:
        """K critic updates without the actor's: evaluates the present policy before it may change."""
        self._check(batches)
        return updates.update(self.config, "critic", state, batches, jnp.float32(xi))

    def calql_update(self, state: LearnerState, batches: Batch, xi: float) -> tuple[LearnerState, losses.Metrics]:
        """K Cal-QL updates; pass the full xi of the coming online phase."""
        if self.config.residual and not float(xi) > 0.0:
            raise ConfigError(f"Cal-QL needs xi > 0 (the density of a residual of scale 0 is infinite); given {xi}.")
        self._check(batches)
        return updates.update(self.config, "calql", state, batches, jnp.float32(xi))

    def actor_params(self, state: LearnerState) -> ActorParams:
        """A copy of the weights that acting needs; it survives the next update."""
        copied = jax.tree.map(jnp.copy, (state.actor, state.critic["encoder"], state.normalizer))
        return ActorParams(*copied)

    def act(
        self,
        params: ActorParams,
        state: Any,
        base_action: Any,
        images: Mapping[str, Any],
        seeds: Any | None,
    ) -> jax.Array:
        """Residuals ``[L, A]`` in [-1, 1]; ``seeds`` uint32 ``[L]`` to sample, None for the mode."""
        images = {name: images[name] for name in self.cameras}
        return updates.act(self.config, params, state, base_action, images, seeds)

    def _check(self, batches: Batch) -> None:
        shape, ratio = np.shape(batches.state), self.config.critic_actor_ratio
        if len(shape) != 3 or shape[-1] != self.state_dim:
            raise ContractError(f"Batches must be [K, B, {self.state_dim}] (sample_many); state is {shape}.")
        if shape[0] == 0 or shape[0] % ratio:
            raise ContractError(f"K is {shape[0]}; it must be a multiple of critic_actor_ratio, {ratio}.")
        actions = (*shape[:2], self.action_dim)
        if np.shape(batches.action) != actions:
            raise ContractError(f"Batch actions are {np.shape(batches.action)}; expected {actions}.")
        if missing := sorted(set(self.cameras) - set(batches.images)):
            raise ContractError(f"Batches lack the frames of {', '.join(missing)}; the encoder needs them.")
