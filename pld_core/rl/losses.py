"""Losses of soft actor-critic on combined actions, and of Cal-QL.

Shapes: ``B`` batch, ``A`` action, ``E`` critics, ``N`` sampled actions. States that arrive here are
normalised and, with an image encoder, already hold the latent. Sources: clipped double Q and the
temperature from Haarnoja et al. 2018; combined actions from PLD (Xiao et al. 2026); Cal-QL from
Nakamoto et al. 2023.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pld_core.data.replay import Batch
from pld_core.rl.config import LearnerConfig
from pld_core.rl.networks import (
    Params,
    active,
    actor_distribution,
    combine,
    critic_values,
    critic_values_of_many,
    critic_view,
    squash,
)

Metrics = dict[str, jax.Array]


class Proposals(NamedTuple):
    """Actions to be executed ``[N, B, A]`` and the log density ``[N, B]`` of their residuals."""

    actions: jax.Array
    log_density: jax.Array


def propose(
    config: LearnerConfig,
    actor: Params,
    state: jax.Array,
    base_action: jax.Array,
    key: jax.Array,
    n: int,
    xi: jax.Array | float,
) -> Proposals:
    """``n`` samples per state from the policy, combined with that state's own base action."""
    mean, log_std = actor_distribution(config, actor, state, base_action)
    u, log_density = squash(mean, log_std, jax.random.normal(key, (n, *mean.shape)), active(config, mean.shape[-1]))
    return Proposals(combine(base_action, u, xi, config.residual), log_density)


def td_target(
    config: LearnerConfig,
    target: Params,
    batch: Batch,
    next_state: jax.Array,
    proposals: Proposals,
    temperature: jax.Array | float = 0.0,
) -> jax.Array:
    """``r + discount * max_N min_E Q_target(s', a')`` ``[B]``.

    ``batch.discount`` is 0 after termination and ``gamma ** k`` otherwise, truncation included. With
    ``backup_entropy`` the entropy stands inside the bracket, so it gets the discount as well.
    """
    value = critic_values(target, next_state, critic_view(config, batch.next_base_action, proposals.actions)).min(0)
    if config.backup_entropy:
        value = value - temperature * proposals.log_density
    wanted = batch.reward + batch.discount * value.max(0)
    if config.value_range is not None:
        wanted = jnp.clip(wanted, *config.value_range)
    return jax.lax.stop_gradient(wanted)


def sac_critic_loss(
    config: LearnerConfig, critics: Params, state: jax.Array, batch: Batch, wanted: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Mean squared error of every critic to the common target ``[B]``."""
    q = critic_values(critics, state, critic_view(config, batch.base_action, batch.action))
    loss = jnp.square(q - wanted).mean()
    return loss, {"critic_loss": loss, "q_data": q.mean(), "target": wanted.mean()}


def executed_log_density(
    config: LearnerConfig, log_density: jax.Array, action_dim: int, xi: jax.Array | float
) -> jax.Array:
    """Log density of ``a_b + xi u``, from that of ``u``: the Jacobian is ``xi ** A``.

    Where the sum leaves the action box it is clipped onto a face and has no density; the value
    before clipping is used there.
    """
    scaled = action_dim - len(config.passive)
    return log_density - scaled * jnp.log(xi) if config.residual else log_density


def calql_loss(
    config: LearnerConfig,
    critics: Params,
    state: jax.Array,
    batch: Batch,
    wanted: jax.Array,
    random_actions: jax.Array,
    here: Proposals,
    there: Proposals,
    xi: jax.Array | float,
) -> tuple[jax.Array, Metrics]:
    """TD loss plus ``alpha * mean(logsumexp(Q - log density) - Q(s, a_data))``.

    random_actions ``[N, B, A]`` are uniform in [-1, 1] where the policy decides; ``here`` and ``there``
    are the policy's at s and s', all scored at s. The policy's values are raised to the Monte-Carlo return before the
    density is subtracted; random actions are not bounded.
    """
    n, _, action_dim = random_actions.shape
    actions = jnp.concatenate([batch.action[None], random_actions, here.actions, there.actions])
    q = critic_values_of_many(critics, state, critic_view(config, batch.base_action, actions))  # [E, 1 + 3N, B]
    q_data, q_random, q_policy = q[:, 0], q[:, 1 : 1 + n], q[:, 1 + n :]
    bounded = jnp.maximum(q_policy, batch.mc_return)
    policy_density = executed_log_density(
        config, jnp.concatenate([here.log_density, there.log_density]), action_dim, xi
    )
    decided = action_dim - len(config.passive)
    corrected = jnp.concatenate([q_random - decided * math.log(0.5), bounded - policy_density], axis=1)
    gap = jax.nn.logsumexp(corrected, axis=1) - q_data  # [E, B]
    td_loss = jnp.square(q_data - wanted).mean()
    loss = td_loss + config.calql_alpha * gap.mean()
    return loss, {
        "critic_loss": td_loss,
        "q_data": q_data.mean(),
        "target": wanted.mean(),
        "calql_loss": gap.mean(),
        "calql_bound_rate": (q_policy < batch.mc_return).mean(),
        "calql_gap": q_data.mean() - q_random.mean(),
    }


def actor_loss(
    config: LearnerConfig,
    actor: Params,
    critics: Params,
    state: jax.Array,
    batch: Batch,
    noise: jax.Array,
    temperature: jax.Array,
    xi: jax.Array | float,
) -> tuple[jax.Array, Metrics]:
    """``E[temperature * log pi(u | s, a_b) - Q(s, combine(a_b, u, xi))]``; noise ``[B, A]``."""
    mean, log_std = actor_distribution(config, actor, state, batch.base_action)
    u, log_density = squash(mean, log_std, noise, active(config, mean.shape[-1]))
    executed = combine(batch.base_action, u, xi, config.residual)
    q = critic_values(critics, state, critic_view(config, batch.base_action, executed))
    value = q.min(0) if config.actor_q == "min" else q.mean(0)
    loss = (temperature * log_density - value).mean()
    if config.residual_l2 > 0.0:
        loss = loss + config.residual_l2 * jnp.square(u).mean()
    return loss, {
        "actor_loss": loss,
        "entropy": -log_density.mean(),
        "residual_size": jnp.abs(u).mean(),
        "q_policy": value.mean(),
    }


def temperature_loss(log_temperature: jax.Array, entropy: jax.Array, target_entropy: float) -> jax.Array:
    """``temperature * (entropy - target)``: falls while the policy is more random than asked for."""
    return jnp.exp(log_temperature) * (entropy - target_entropy)
