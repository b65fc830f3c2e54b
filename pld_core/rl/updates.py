"""The compiled functions behind ``Learner``: gradient steps, the scan over them, and acting.

Settings are static and hashable, so equal learners share one compilation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from pld_core.data.replay import Batch
from pld_core.rl import losses
from pld_core.rl.config import LearnerConfig
from pld_core.rl.encoder import encode, random_shift
from pld_core.rl.networks import Params, active, actor_distribution, normalise, squash
from pld_core.rl.optim import adamw, polyak
from pld_core.rl.state import ActorParams, LearnerState

Kind = Literal["sac", "calql", "critic"]  # critic: soft actor-critic without the actor's update


def update(
    config: LearnerConfig, kind: Kind, state: LearnerState, batches: Batch, xi: jax.Array
) -> tuple[LearnerState, losses.Metrics]:
    """K critic updates on ``[K, B, ...]`` batches and an actor update after every ``ratio`` of them.

    Convolutions inside a compiled loop are 17 times slower than outside it on a CPU (measured), so
    with an image encoder the loop is in Python: its overhead is nothing beside a convolution.
    """
    if config.encoder == "features":
        return _scan(config, kind, state, batches, xi)
    rows = []
    for i in range(len(batches.state)):
        batch = jax.tree.map(lambda x, i=i: x[i], batches)
        state, seen, metrics = _compiled_critic_step(config, kind, state, batch, xi)
        if (i + 1) % config.critic_actor_ratio == 0:
            if _trains_actor(config, kind):
                state, actor_metrics = _compiled_actor_step(config, state, seen, batch, xi)
                metrics |= actor_metrics
            rows.append(metrics)
    return state, jax.tree.map(lambda *values: sum(values) / len(values), *rows)


def _trains_actor(config: LearnerConfig, kind: Kind) -> bool:
    return kind == "sac" or (kind == "calql" and config.calql_updates_actor)


@partial(jax.jit, static_argnames=("config", "kind"), donate_argnames=("state",))
def _scan(
    config: LearnerConfig, kind: Kind, state: LearnerState, batches: Batch, xi: jax.Array
) -> tuple[LearnerState, losses.Metrics]:
    ratio = config.critic_actor_ratio
    groups = jax.tree.map(lambda x: x.reshape(-1, ratio, *x.shape[1:]), batches)

    def one_critic(state: LearnerState, batch: Batch) -> tuple[LearnerState, tuple[jax.Array, losses.Metrics]]:
        state, seen, metrics = _critic_step(config, kind, state, batch, xi)
        return state, (seen, metrics)

    def one_group(state: LearnerState, group: Batch) -> tuple[LearnerState, losses.Metrics]:
        # A loop inside the loop: 3 % slower than writing the steps out, and half the compile time.
        state, (seen, metrics) = jax.lax.scan(one_critic, state, group)
        metrics = jax.tree.map(jnp.mean, metrics)
        if _trains_actor(config, kind):
            last = jax.tree.map(lambda x: x[-1], group)
            state, actor_metrics = _actor_step(config, state, seen[-1], last, xi)
            metrics |= actor_metrics
        return state, metrics

    state, metrics = jax.lax.scan(one_group, state, groups)
    return state, jax.tree.map(jnp.mean, metrics)


def _critic_step(
    config: LearnerConfig, kind: Kind, state: LearnerState, batch: Batch, xi: jax.Array
) -> tuple[LearnerState, jax.Array, losses.Metrics]:
    """One critic update; also returns the actor's view of ``batch`` (encoded, gradient stopped)."""
    key, here_key, there_key, random_key, shift_key, next_shift_key = jax.random.split(state.key, 6)
    images = random_shift(config, shift_key, batch.images)
    next_images = random_shift(config, next_shift_key, batch.next_images)
    encoder = state.critic["encoder"]
    own, following = normalise(state.normalizer, batch.state), normalise(state.normalizer, batch.next_state)
    next_state = jax.lax.stop_gradient(encode(config, encoder, following, next_images))
    n_next = config.calql_actions if kind == "calql" else 1
    there = losses.propose(config, state.actor, next_state, batch.next_base_action, there_key, n_next, xi)
    n_target = min(n_next, config.calql_target_actions)
    for_target = jax.tree.map(lambda x: x[:n_target], there)
    temperature = jnp.exp(state.log_temperature)
    wanted = losses.td_target(config, state.target, batch, next_state, for_target, temperature)

    def loss(critic: Params) -> tuple[jax.Array, tuple[jax.Array, losses.Metrics]]:
        seen = encode(config, critic["encoder"], own, images)
        stopped = jax.lax.stop_gradient(seen)
        if kind != "calql":
            value, metrics = losses.sac_critic_loss(config, critic["heads"], seen, batch, wanted)
            return value, (stopped, metrics)
        n = config.calql_actions
        here = losses.propose(config, state.actor, stopped, batch.base_action, here_key, n, xi)
        shape = (n, *batch.action.shape)
        uniform = jax.random.uniform(random_key, shape, minval=-1.0, maxval=1.0)
        uniform = jnp.where(active(config, shape[-1]) > 0, uniform, batch.base_action)
        value, metrics = losses.calql_loss(config, critic["heads"], seen, batch, wanted, uniform, here, there, xi)
        return value, (stopped, metrics)

    (_, (seen, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(state.critic)
    critic, moments, norm = adamw(
        grads, state.critic_moments, state.critic, config.learning_rate, config.weight_decay, config.grad_clip
    )
    if not config.train_encoder:
        critic = critic | {"encoder": encoder}  # weight decay must not shrink a frozen encoder
    state = dataclasses.replace(
        state,
        critic=critic,
        critic_moments=moments,
        target=polyak(state.target, critic["heads"], config.polyak),
        key=key,
        step=state.step + 1,
    )
    return state, seen, metrics | {"critic_grad_norm": norm}


def _actor_step(
    config: LearnerConfig, state: LearnerState, seen: jax.Array, batch: Batch, xi: jax.Array
) -> tuple[LearnerState, losses.Metrics]:
    """One update of the actor and of the temperature, on states encoded before the critic's step."""
    key, noise_key = jax.random.split(state.key)
    noise = jax.random.normal(noise_key, batch.action.shape)
    temperature = jnp.exp(state.log_temperature)

    def loss(actor: Params) -> tuple[jax.Array, losses.Metrics]:
        return losses.actor_loss(config, actor, state.critic["heads"], seen, batch, noise, temperature, xi)

    (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.actor)
    actor, moments, norm = adamw(
        grads, state.actor_moments, state.actor, config.learning_rate, config.weight_decay, config.grad_clip
    )
    target_entropy = config.target_entropy
    if target_entropy is None:
        target_entropy = -float(batch.action.shape[-1] - len(config.passive))
    temperature_grad = jax.grad(losses.temperature_loss)(state.log_temperature, metrics["entropy"], target_entropy)
    log_temperature, temperature_moments, _ = adamw(
        temperature_grad, state.temperature_moments, state.log_temperature, config.temperature_learning_rate, 0.0, None
    )
    if config.min_temperature > 0.0:
        log_temperature = jnp.maximum(log_temperature, jnp.log(config.min_temperature))
    state = dataclasses.replace(
        state,
        actor=actor,
        actor_moments=moments,
        log_temperature=log_temperature,
        temperature_moments=temperature_moments,
        key=key,
    )
    return state, metrics | {"actor_grad_norm": norm, "temperature": temperature}


_compiled_critic_step = jax.jit(_critic_step, static_argnames=("config", "kind"), donate_argnames=("state",))
_compiled_actor_step = jax.jit(_actor_step, static_argnames=("config",), donate_argnames=("state",))


@partial(jax.jit, static_argnames=("config",))
def act(
    config: LearnerConfig,
    params: ActorParams,
    state: jax.Array,
    base_action: jax.Array,
    images: Mapping[str, Any],
    seeds: jax.Array | None,
) -> jax.Array:
    """Residuals ``[L, A]``; every lane draws from its own seed, so its noise is its own."""
    seen = encode(config, params.encoder, normalise(params.normalizer, state), images)
    mean, log_std = actor_distribution(config, params.actor, seen, base_action)
    if seeds is None:
        return jnp.tanh(mean) * active(config, mean.shape[-1])
    noise = jax.vmap(lambda seed: jax.random.normal(jax.random.PRNGKey(seed), mean.shape[1:]))(seeds)
    return squash(mean, log_std, noise, active(config, mean.shape[-1]))[0]
