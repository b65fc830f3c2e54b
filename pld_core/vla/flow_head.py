"""Flow-matching action head, as in pi0 (Black et al. 2024, eq. 1-3).

Path ``x_t = t * noise + (1 - t) * actions``, target velocity ``noise - actions``, so t = 1 is noise
and t = 0 is data. Training time ``t ~ 0.999 * Beta(1.5, 1) + 0.001``. Inference starts from zero
noise instead of a sample: one observation, one chunk.
Actions are normalised by the dataset's mean and standard deviation, the scale that unit noise suits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pld_core.vla.layers import Params, dense, dense_init

TIME_FREQUENCIES = 8


def init(config: Any, context_dim: int, action_dim: int, key: jax.Array) -> Params:
    keys = jax.random.split(key, 6)
    width, size = config.width, config.horizon * action_dim
    return {
        "context": dense_init(keys[0], context_dim, width, 2**0.5),
        "context2": dense_init(keys[1], width, width),
        "noisy": dense_init(keys[2], size, width),
        "time": dense_init(keys[3], 2 * TIME_FREQUENCIES, width),
        "hidden": dense_init(keys[4], width, width, 2**0.5),
        "velocity": dense_init(keys[5], width, size, 0.1),
    }


def condition(params: Params, context: jax.Array) -> jax.Array:
    """The part of the network that does not depend on t, computed once per chunk; ``[B, width]``."""
    return dense(params["context2"], jax.nn.relu(dense(params["context"], context)))


def velocity(params: Params, conditioned: jax.Array, noisy: jax.Array, time: jax.Array) -> jax.Array:
    """Predicted ``noise - actions``, ``[B, H*A]``, at ``noisy [B, H*A]`` and ``time [B]``."""
    x = conditioned + dense(params["noisy"], noisy) + dense(params["time"], _time_features(time))
    x = jax.nn.relu(x)
    x = x + jax.nn.relu(dense(params["hidden"], x))
    return dense(params["velocity"], x)


def _time_features(time: jax.Array) -> jax.Array:
    """Sines and cosines of t at octaves from half a period up, ``[B, 2 * TIME_FREQUENCIES]``."""
    angles = time[:, None] * (np.pi * 2.0 ** np.arange(TIME_FREQUENCIES, dtype=np.float32) / 2.0)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def normalised(stats: Mapping[str, jax.Array], actions: jax.Array) -> jax.Array:
    """Chunks ``[B, H, A]`` in the scale of the noise, ``[B, H*A]``."""
    return ((actions - stats["action_mean"]) / stats["action_std"]).reshape(actions.shape[0], -1)


def loss(
    params: Params,
    config: Any,
    stats: Mapping[str, jax.Array],
    context: jax.Array,
    actions: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Mean squared velocity error for chunks ``[B, H, A]`` at random times and noises."""
    k_noise, k_time = jax.random.split(key)
    target = normalised(stats, actions)
    noise = jax.random.normal(k_noise, target.shape)
    uniform = jax.random.uniform(k_time, (target.shape[0],))
    time = 0.999 * uniform ** (1.0 / 1.5) + 0.001  # inverse of the cumulative t^1.5 of Beta(1.5, 1)
    return matching_error(params, condition(params, context), target, noise, time)


def matching_error(
    params: Params, conditioned: jax.Array, target: jax.Array, noise: jax.Array, time: jax.Array
) -> jax.Array:
    """Mean over batch and dimensions of ``|v(x_t, t) - (noise - target)|^2``."""
    mixed = time[:, None] * noise + (1.0 - time[:, None]) * target
    return jnp.mean((velocity(params, conditioned, mixed, time) - (noise - target)) ** 2)


def starting_noise(params: Params, batch: int, key: jax.Array | None) -> jax.Array:
    """``x_1 [B, H*A]``: zeros for the one answer of ``infer``, a sample with a key."""
    shape = (batch, params["velocity"]["w"].shape[1])
    return jnp.zeros(shape) if key is None else jax.random.normal(key, shape)


def sample(
    params: Params, config: Any, stats: Mapping[str, jax.Array], context: jax.Array, key: jax.Array | None = None
) -> jax.Array:
    """Euler integration from noise at t = 1 (zero without a key) to data at t = 0; ``[B, H, A]``, not clipped."""
    conditioned = condition(params, context)
    batch, steps = context.shape[0], config.flow_steps
    x = starting_noise(params, batch, key)
    for step in range(steps):  # unrolled: eight small products are cheaper than a loop's bookkeeping
        time = jnp.full(batch, 1.0 - step / steps)
        x = x - velocity(params, conditioned, x, time) / steps
    return x.reshape(batch, config.horizon, -1) * stats["action_std"] + stats["action_mean"]
