"""Actor and critics as pure functions on dictionaries of arrays.

Shapes: ``B`` batch, ``N`` sampled actions, ``S`` state (and latent), ``A`` action, ``W`` width.
Both networks take a state and an action (the base action for the actor, the executed one for a
critic). The first layer keeps two weight matrices, so that the state's part is computed once
when many actions are scored at the same state, and so that the gradient to an action never
touches the state.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pld_core.rl.config import LearnerConfig

Params = dict[str, Any]

_EPSILON = 1e-6
_LOG_2 = math.log(2.0)
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_DEPARTURE_CLIP = 2.0  # Cal-QL also scores actions that no residual could reach
_STATE_CLIP = 10.0  # standard deviations; a sensor's outlier must not dominate an input


def normalise(normalizer: Params, state: jax.Array) -> jax.Array:
    """``(state - mean) / std``, clipped."""
    return jnp.clip((state - normalizer["mean"]) * normalizer["inverse_std"], -_STATE_CLIP, _STATE_CLIP)


def combine(base_action: jax.Array, u: jax.Array, xi: jax.Array | float, residual: bool = True) -> jax.Array:
    """Executed action ``[..., A]``: ``clip(a_b + xi u, -1, 1)``, or ``clip(u, -1, 1)`` without a base."""
    return jnp.clip(base_action + xi * u if residual else u, -1.0, 1.0)


def critic_view(config: LearnerConfig, base_action: jax.Array, action: jax.Array) -> jax.Array:
    """What a critic sees of executed actions ``[..., B, A]``: ``[..., B, 2A]`` with a residual.

    The departure from the base ``[B, A]``, in units of the residual's full scale, stands beside the
    action itself: as part of it, a small residual would drown in the base's own motion.
    """
    if not config.residual:
        return action
    departure = jnp.clip((action - base_action) / config.residual_scale, -_DEPARTURE_CLIP, _DEPARTURE_CLIP)
    return jnp.concatenate([action, departure], axis=-1)


# -- trunk -----------------------------------------------------------------------------------------


def _dense(key: jax.Array, fan_in: int, width: int, total_fan_in: int | None = None) -> jax.Array:
    bound = math.sqrt(3.0 / (total_fan_in or fan_in))  # LeCun uniform
    return jax.random.uniform(key, (fan_in, width), jnp.float32, -bound, bound)


def init_trunk(key: jax.Array, state_dim: int, action_dim: int, hidden: tuple[int, ...]) -> Params:
    keys = jax.random.split(key, len(hidden) + 1)
    both = state_dim + action_dim
    layers: Params = {}
    for i, width in enumerate(hidden):
        layer = {"bias": jnp.zeros(width), "scale": jnp.ones(width), "offset": jnp.zeros(width)}
        if i == 0:
            layer["state"] = _dense(keys[0], state_dim, width, both)
            layer["action"] = _dense(keys[-1], action_dim, width, both)
        else:
            layer["weight"] = _dense(keys[i], hidden[i - 1], width)
        layers[f"layer{i}"] = layer
    return layers


def _norm_tanh(layer: Params, x: jax.Array) -> jax.Array:
    """tanh(LayerNorm(x + bias))."""
    x = x + layer["bias"]
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return jnp.tanh(centred * jax.lax.rsqrt(variance + _EPSILON) * layer["scale"] + layer["offset"])


def state_part(params: Params, state: jax.Array) -> jax.Array:
    """First layer's share of the state, ``[B, W]``."""
    return state @ params["layer0"]["state"]


def trunk(params: Params, from_state: jax.Array, action: jax.Array) -> jax.Array:
    """Last hidden layer ``[..., W]`` from ``state_part`` and an action ``[..., A]`` (broadcast)."""
    x = _norm_tanh(params["layer0"], from_state + action @ params["layer0"]["action"])
    for i in range(1, sum(name.startswith("layer") for name in params)):
        layer = params[f"layer{i}"]
        x = _norm_tanh(layer, x @ layer["weight"])
    return x


# -- critics ---------------------------------------------------------------------------------------


def init_critics(key: jax.Array, config: LearnerConfig, state_dim: int, action_dim: int) -> Params:
    """One dictionary per critic: separate matrix products are quicker on a CPU than a batched one."""
    seen = 2 * action_dim if config.residual else action_dim  # see ``critic_view``
    critics: Params = {}
    for i, critic_key in enumerate(jax.random.split(key, config.critics)):
        trunk_key, head_key = jax.random.split(critic_key)
        critic = init_trunk(trunk_key, state_dim, seen, config.hidden)
        # A small head: values start near 0, inside the range of a sparse reward.
        critic["head"] = {"weight": 0.01 * _dense(head_key, config.hidden[-1], 1)[:, 0], "bias": jnp.zeros(())}
        critics[f"critic{i}"] = critic
    return critics


def critic_values(critics: Params, state: jax.Array, action: jax.Array) -> jax.Array:
    """``Q [E, ..., B]`` of E critics: state ``[B, S]``, action ``[..., B, A or 2A]`` as ``critic_view`` gives it."""
    return _values_from_parts(critics, _state_parts(critics, state), action)


def critic_values_of_many(critics: Params, state: jax.Array, actions: jax.Array) -> jax.Array:
    """``Q [E, N, B]`` of many actions ``[N, B, A or 2A]`` (``critic_view``) at each state.

    On a CPU one action after the other, computed again for the gradient: what one action needs
    stays in the cache, which is twice as quick as all at once (measured with N = 31, B = 256).
    """
    parts = _state_parts(critics, state)
    if jax.default_backend() != "cpu":
        return _values_from_parts(critics, parts, actions)
    one = jax.checkpoint(lambda action: _values_from_parts(critics, parts, action))
    return jnp.moveaxis(jax.lax.map(one, actions), 0, 1)


def _state_parts(critics: Params, state: jax.Array) -> list[jax.Array]:
    return [state_part(critics[name], state) for name in sorted(critics)]


def _values_from_parts(critics: Params, parts: list[jax.Array], action: jax.Array) -> jax.Array:
    values = []
    for name, part in zip(sorted(critics), parts, strict=True):
        critic = critics[name]
        hidden = trunk(critic, part, action)
        values.append((hidden * critic["head"]["weight"]).sum(-1) + critic["head"]["bias"])
    return jnp.stack(values)


# -- actor -----------------------------------------------------------------------------------------


def init_actor(key: jax.Array, config: LearnerConfig, state_dim: int, action_dim: int) -> Params:
    """The head is zero: the mode's residual is exactly 0 until the first update (as in the paper)."""
    actor = init_trunk(key, state_dim, action_dim, config.hidden)
    fraction = (config.init_log_std - config.log_std_min) / (config.log_std_max - config.log_std_min)
    actor["head"] = {
        "weight": jnp.zeros((config.hidden[-1], 2 * action_dim)),
        "bias": jnp.concatenate(
            [jnp.zeros(action_dim), jnp.full(action_dim, math.log(fraction / (1.0 - fraction)))]
        ).astype(jnp.float32),
    }
    return actor


def actor_distribution(
    config: LearnerConfig, actor: Params, state: jax.Array, base_action: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean and log standard deviation ``[B, A]`` of the Gaussian before tanh."""
    seen = base_action if config.residual else jnp.zeros_like(base_action)
    hidden = trunk(actor, state_part(actor, state), seen)
    mean, raw = jnp.split(hidden @ actor["head"]["weight"] + actor["head"]["bias"], 2, axis=-1)
    log_std = config.log_std_min + (config.log_std_max - config.log_std_min) * jax.nn.sigmoid(raw)
    return mean, log_std


def active(config: LearnerConfig, action_dim: int) -> np.ndarray:
    """1 for every entry of the action that the policy decides, 0 for those left to the base; ``[A]``."""
    return np.array([float(k not in config.passive) for k in range(action_dim)], np.float32)


def squash(
    mean: jax.Array, log_std: jax.Array, noise: jax.Array, mask: np.ndarray | float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Residual ``u = tanh(mean + std noise)`` ``[..., A]`` and its log density ``[...]``.

    Where ``mask`` is 0 the residual is 0 and takes no part in the density. The change of variables
    ``-log(1 - u^2)`` is written without cancellation (Haarnoja et al. 2018, appendix C).
    """
    raw = mean + jnp.exp(log_std) * noise
    log_gaussian = -0.5 * jnp.square(noise) - log_std - _HALF_LOG_2PI
    log_slope = 2.0 * (_LOG_2 - raw - jax.nn.softplus(-2.0 * raw))
    return jnp.tanh(raw) * mask, ((log_gaussian - log_slope) * mask).sum(-1)
