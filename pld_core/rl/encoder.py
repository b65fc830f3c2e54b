"""ResNetV1-10 with spatial learned embeddings, shared by critics and actor.

Shapes: ``B`` batch, ``h, w`` image, ``C`` channels, ``F`` embeddings per channel, ``Z`` latent.
The trunk is He et al. 2016 with one basic block per stage and group normalisation (batch statistics
would couple the transitions of a batch); the head multiplies the last feature map with learned
spatial weights, so that position survives the sum (as in hil-serl; Luo et al. 2024).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from pld_core.rl.config import LearnerConfig
from pld_core.rl.networks import Params

_STAGES = (64, 128, 256, 512)
_GROUPS = 4
_EMBEDDINGS = 8
_EPSILON = 1e-5
_SMALL_MAP = 16  # pixels
_STRIDE = 32  # of the whole trunk
_PIXEL_MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB in [0, 1]
_PIXEL_STD = (0.229, 0.224, 0.225)


def encode(config: LearnerConfig, encoder: Params, state: jax.Array, images: Mapping[str, jax.Array]) -> jax.Array:
    """State ``[B, S]`` with the images' latent appended, ``[B, S + Z]``; unchanged with ``features``."""
    if config.encoder == "features":
        return state
    if not config.train_encoder:
        encoder = jax.lax.stop_gradient(encoder)
    pooled = [
        _spatial_sum(_trunk(encoder["trunk"], frames), encoder["spatial"][camera])
        for camera, frames in sorted(images.items())
        if camera in encoder["spatial"]
    ]
    latent = jnp.concatenate(pooled, axis=-1) @ encoder["latent"]["weight"] + encoder["latent"]["bias"]
    return jnp.concatenate([state, _latent_norm(encoder["latent"], latent)], axis=-1)


def random_shift(config: LearnerConfig, key: jax.Array, images: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
    """Every image moved by up to ``image_shift`` pixels, edges repeated (DrQ; Yarats et al. 2021)."""
    pad = config.image_shift
    if pad == 0 or config.encoder == "features":
        return images

    def shift(frames: jax.Array, key: jax.Array) -> jax.Array:
        padded = jnp.pad(frames, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
        corners = jax.random.randint(key, (len(frames), 2), 0, 2 * pad + 1)
        return jax.vmap(lambda x, c: jax.lax.dynamic_slice(x, (c[0], c[1], 0), frames.shape[1:]))(padded, corners)

    keys = jax.random.split(key, len(images))
    return {camera: shift(images[camera], k) for camera, k in zip(sorted(images), keys, strict=True)}


def latent_size(config: LearnerConfig) -> int:
    """Numbers that ``encode`` appends to the state."""
    return 0 if config.encoder == "features" else config.latent_dim


def init_encoder(key: jax.Array, config: LearnerConfig, cameras: Mapping[str, tuple[int, int, int]]) -> Params:
    """Random weights (empty with ``features``): one trunk for all cameras, spatial weights for each."""
    if config.encoder == "features":
        return {}
    trunk_key, spatial_key, latent_key = jax.random.split(key, 3)
    spatial = {}
    for k, (camera, (height, width, _)) in zip(
        jax.random.split(spatial_key, len(cameras)), sorted(cameras.items()), strict=True
    ):
        area = (math.ceil(height / _STRIDE), math.ceil(width / _STRIDE))
        spatial[camera] = jax.random.normal(k, (*area, _STAGES[-1], _EMBEDDINGS)) / math.sqrt(area[0] * area[1])
    pooled = len(cameras) * _STAGES[-1] * _EMBEDDINGS
    latent = {
        "weight": jax.random.normal(latent_key, (pooled, config.latent_dim)) / math.sqrt(pooled),
        "bias": jnp.zeros(config.latent_dim),
        "scale": jnp.ones(config.latent_dim),
        "offset": jnp.zeros(config.latent_dim),
    }
    return {"trunk": _init_trunk(trunk_key), "spatial": spatial, "latent": latent}


# -- trunk -----------------------------------------------------------------------------------------


def _init_trunk(key: jax.Array) -> Params:
    keys = iter(jax.random.split(key, 1 + 3 * len(_STAGES)))
    trunk: Params = {"stem": _init_conv(next(keys), 7, 3, _STAGES[0])}
    channels = _STAGES[0]
    for i, width in enumerate(_STAGES):
        block = {
            "first": _init_conv(next(keys), 3, channels, width),
            "second": _init_conv(next(keys), 3, width, width),
        }
        if width != channels:
            block["skip"] = _init_conv(next(keys), 1, channels, width)
        trunk[f"stage{i}"] = block
        channels = width
    return trunk


def _init_conv(key: jax.Array, size: int, channels: int, width: int) -> Params:
    """He initialisation, with the group norm that follows."""
    kernel = jax.random.normal(key, (size, size, channels, width)) * math.sqrt(2.0 / (size * size * channels))
    return {"kernel": kernel, "scale": jnp.ones(width), "offset": jnp.zeros(width)}


def _trunk(params: Params, frames: jax.Array) -> jax.Array:
    """uint8 ``[B, h, w, 3]`` to float32 ``[B, h/32, w/32, 512]``."""
    x = (frames.astype(jnp.float32) / 255.0 - jnp.array(_PIXEL_MEAN)) / jnp.array(_PIXEL_STD)
    x = jax.nn.relu(_conv_norm(params["stem"], x, 2))
    x = functools.reduce(jnp.maximum, _windows(x, 3, 2, -jnp.inf))  # its gradient is cheap, reduce_window's is not
    for i in range(len(_STAGES)):
        block, stride = params[f"stage{i}"], 1 if i == 0 else 2
        y = jax.nn.relu(_conv_norm(block["first"], x, stride))
        y = _conv_norm(block["second"], y, 1)
        skip = _conv_norm(block["skip"], x, stride) if "skip" in block else x
        x = jax.nn.relu(y + skip)
    return x


def _conv_norm(params: Params, x: jax.Array, stride: int) -> jax.Array:
    x = _conv(x, params["kernel"], stride)
    batch, height, width, channels = x.shape
    grouped = x.reshape(batch, height * width, _GROUPS, channels // _GROUPS)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    variance = jnp.square(centred).mean((1, 3), keepdims=True)
    normal = (centred * jax.lax.rsqrt(variance + _EPSILON)).reshape(x.shape)
    return normal * params["scale"] + params["offset"]


def _conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolution with "SAME" padding; small maps go through one matrix product.

    XLA's own convolution takes 70 times as long on a CPU for a 2 x 2 map of 512 channels.
    """
    if x.shape[1] * x.shape[2] > _SMALL_MAP:
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    patches = jnp.concatenate(_windows(x, kernel.shape[0], stride, 0.0), axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def _windows(x: jax.Array, size: int, stride: int, fill: float) -> list[jax.Array]:
    """The ``size * size`` shifted and strided views ``[B, h', w', C]`` of a "SAME"-padded map."""
    outputs, pads = [], []
    for n in x.shape[1:3]:
        out = -(-n // stride)
        total = max((out - 1) * stride + size - n, 0)
        outputs.append(out)
        pads.append((total // 2, total - total // 2))
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    last = [(out - 1) * stride + 1 for out in outputs]
    return [x[:, i : i + last[0] : stride, j : j + last[1] : stride, :] for i in range(size) for j in range(size)]


# -- head ------------------------------------------------------------------------------------------


def _spatial_sum(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Feature map ``[B, h, w, C]`` and weights ``[h, w, C, F]`` to ``[B, C * F]``."""
    return jnp.einsum("bhwc,hwcf->bcf", x, weights).reshape(len(x), -1)


def _latent_norm(params: Params, x: jax.Array) -> jax.Array:
    """tanh(LayerNorm(x))."""
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return jnp.tanh(centred * jax.lax.rsqrt(variance + _EPSILON) * params["scale"] + params["offset"])
