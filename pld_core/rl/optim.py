"""AdamW with a global norm clip, and Polyak averaging, on pytrees."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


def init_adam(params: Any) -> dict[str, Any]:
    zeros = jax.tree.map(jnp.zeros_like, params)
    return {"first": zeros, "second": jax.tree.map(jnp.zeros_like, params), "count": jnp.zeros((), jnp.int32)}


def global_norm(tree: Any) -> jax.Array:
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))


def adamw(
    grads: Any, moments: dict[str, Any], params: Any, learning_rate: float, weight_decay: float, clip: float | None
) -> tuple[Any, dict[str, Any], jax.Array]:
    """One step (Loshchilov & Hutter 2019); returns ``(params, moments, gradient norm before the clip)``.

    The bias corrections and the clip are scalars taken out of the element-wise pass, so that every
    array is read and written once.
    """
    norm = global_norm(grads)
    factor = 1.0 if clip is None else jnp.where(norm > clip, clip / norm, 1.0)
    count = moments["count"] + 1
    time = count.astype(jnp.float32)
    rate = learning_rate / (1.0 - _BETA1**time)
    root = jax.lax.rsqrt(1.0 - _BETA2**time)
    first = jax.tree.map(lambda m, g: _BETA1 * m + (1.0 - _BETA1) * factor * g, moments["first"], grads)
    second = jax.tree.map(lambda v, g: _BETA2 * v + (1.0 - _BETA2) * jnp.square(factor * g), moments["second"], grads)
    params = jax.tree.map(
        lambda p, m, v: p * (1.0 - learning_rate * weight_decay) - rate * m / (jnp.sqrt(v) * root + _EPSILON),
        params,
        first,
        second,
    )
    return params, {"first": first, "second": second, "count": count}, norm


def polyak(target: Any, online: Any, rate: float) -> Any:
    """``target + rate (online - target)``."""
    return jax.tree.map(lambda t, p: t + rate * (p - t), target, online)
