"""Dense and convolution layers as plain dictionaries ``{"w": kernel, "b": bias}``.

Kernels are the only leaves named ``"w"``, which is how LoRA finds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

Params = Any  # a pytree of float32 arrays


def dense_init(key: jax.Array, fan_in: int, fan_out: int, scale: float = 1.0) -> Params:
    """Truncated-normal kernel ``[fan_in, fan_out]`` of standard deviation ``scale / sqrt(fan_in)``, zero bias."""
    kernel = jax.random.truncated_normal(key, -2.0, 2.0, (fan_in, fan_out)) * (scale / max(fan_in, 1) ** 0.5 / 0.88)
    return {"w": kernel, "b": jnp.zeros(fan_out)}


def dense(params: Params, x: jax.Array) -> jax.Array:
    """``[..., in] -> [..., out]``."""
    return x @ params["w"] + params["b"]


def conv_init(key: jax.Array, size: int, channels_in: int, channels_out: int, scale: float = 1.0) -> Params:
    """Kernel ``[size, size, in, out]``."""
    flat = dense_init(key, size * size * channels_in, channels_out, scale)
    return {"w": flat["w"].reshape(size, size, channels_in, channels_out), "b": flat["b"]}


def conv(params: Params, x: jax.Array) -> jax.Array:
    """Same-size convolution, ``[B, h, w, in] -> [B, h, w, out]``.

    Call it outside of compiled loops on a CPU: within ``lax.scan`` and the like, XLA falls back to
    a path that is a hundred times slower.
    """
    y = jax.lax.conv_general_dilated(x, params["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y + params["b"]


def mlp_init(key: jax.Array, sizes: Sequence[int], last_scale: float = 1.0) -> Params:
    """A stack of dense layers through ``sizes``; relu gain inside, ``last_scale`` for the output layer."""
    keys = jax.random.split(key, len(sizes) - 1)
    scales = [2**0.5] * (len(sizes) - 2) + [last_scale]
    pairs = zip(keys, sizes[:-1], sizes[1:], scales, strict=True)
    return [dense_init(k, i, o, s) for k, i, o, s in pairs]


def mlp(params: Params, x: jax.Array) -> jax.Array:
    """relu between the layers, none after the last."""
    for layer in params[:-1]:
        x = jax.nn.relu(dense(layer, x))
    return dense(params[-1], x)


def parameter_count(params: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
