"""Diffusion action head: score matching with the velocity of Salimans and Ho (2022), and DDIM (Song et al. 2021).

``x_t = a * actions + s * noise`` with ``a = cos(pi t / 2)``, ``s = sin(pi t / 2)``: t = 1 is noise, t = 0 is data. The
network predicts ``v = a * noise - s * actions = (noise - s * x_t) / a``: the squared error is that of the noise, and
so of the score ``-noise / s``, weighted by ``1 / a^2``, which keeps the step away from pure noise finite. The network,
the normalisation and the start from zero noise instead of a sample are the flow head's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pld_core.vla import flow_head
from pld_core.vla.flow_head import condition, normalised, starting_noise, velocity
from pld_core.vla.layers import Params

init = flow_head.init


def signal_and_noise(time: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Their shares at t, of the shape of ``time``; the squares add up to one."""
    return jnp.cos(jnp.pi * time / 2), jnp.sin(jnp.pi * time / 2)


def loss(
    params: Params,
    config: Any,
    stats: Mapping[str, jax.Array],
    context: jax.Array,
    actions: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Mean squared error of ``v`` for chunks ``[B, H, A]`` at random times and noises."""
    k_noise, k_time = jax.random.split(key)
    target = normalised(stats, actions)
    noise = jax.random.normal(k_noise, target.shape)
    time = jax.random.uniform(k_time, (target.shape[0],))
    return matching_error(params, condition(params, context), target, noise, time)


def matching_error(
    params: Params, conditioned: jax.Array, target: jax.Array, noise: jax.Array, time: jax.Array
) -> jax.Array:
    """Mean over batch and dimensions of ``|v(x_t, t) - (a * noise - s * target)|^2``."""
    signal, share = (part[:, None] for part in signal_and_noise(time))
    predicted = velocity(params, conditioned, signal * target + share * noise, time)
    return jnp.mean((predicted - (signal * noise - share * target)) ** 2)


def sample(
    params: Params, config: Any, stats: Mapping[str, jax.Array], context: jax.Array, key: jax.Array | None = None
) -> jax.Array:
    """DDIM steps from noise at t = 1 (zero without a key) to data at t = 0; ``[B, H, A]``, not clipped."""
    conditioned = condition(params, context)
    batch, steps = context.shape[0], config.flow_steps
    x = starting_noise(params, batch, key)
    for step in range(steps):  # unrolled, as in the flow head
        time = jnp.full(batch, 1.0 - step / steps)
        signal, share = (part[:, None] for part in signal_and_noise(time))
        v = velocity(params, conditioned, x, time)
        data, noise = signal * x - share * v, share * x + signal * v
        signal, share = (part[:, None] for part in signal_and_noise(time - 1.0 / steps))
        x = signal * data + share * noise
    return x.reshape(batch, config.horizon, -1) * stats["action_std"] + stats["action_mean"]
