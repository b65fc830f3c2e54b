"""The network of CompactVLA: images, instruction and proprioception to a context for the action head.

Pure functions over plain pytrees. Letters: ``B`` batch, ``K`` keypoints and ``M`` attention maps per
camera, ``C`` channels, ``D`` instruction embedding, ``P`` proprioception, ``H`` horizon, ``A`` action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pld_core.errors import ConfigError
from pld_core.types import ObservationSpec
from pld_core.vla import diffusion_head, flow_head, token_head
from pld_core.vla.instruction import PADDING
from pld_core.vla.layers import Params, conv, conv_init, dense, dense_init, mlp, mlp_init

HEADS = {"flow": flow_head, "tokens": token_head, "diffusion": diffusion_head}
GROUNDING_DIM = 5  # dx, dy, dz in cm; sin, cos of the yaw error
GROUNDING_SOFT_CM = 0.2  # errors below this size are resolved linearly in the features


@dataclass(frozen=True)
class CompactVLAConfig:
    """Sizes of the network. The defaults give about 400,000 parameters with two cameras."""

    head: Literal["flow", "tokens", "diffusion"] = "flow"
    horizon: int = 8
    patch: int = 4  # pixels: side of the square patches that the first layer sees
    stem: int = 64  # width of the dense layer over patches
    channels: int = 32  # channels of the convolutions
    keypoints: int = 32  # expected positions per camera
    attention_maps: int = 4  # weighted averages of the feature map per camera
    text_buckets: int = 512
    text_dim: int = 16
    grounding_width: int = 192
    width: int = 192  # of the action head
    flow_steps: int = 8  # from noise to actions, of the flow and the diffusion head
    token_bins: int = 256
    token_width: int = 96

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ConfigError(f"head is {self.head!r}; valid: {', '.join(map(repr, HEADS))}.")
        sizes = {k: v for k, v in vars(self).items() if k != "head"}
        wrong = {k: v for k, v in sizes.items() if not isinstance(v, int) or v < 1}
        if wrong or self.text_buckets < 2 or self.token_bins < 2:
            raise ConfigError(f"CompactVLAConfig needs whole numbers above 0 (buckets and bins above 1); got {sizes}.")


@dataclass(frozen=True)
class ModelShape:
    """Everything that fixes array shapes; hashable, so that compiled functions are shared between policies."""

    config: CompactVLAConfig
    cameras: tuple[tuple[str, int, int], ...]  # name, height, width in pixels
    proprio_dim: int
    action_dim: int

    @classmethod
    def of(cls, spec: ObservationSpec, action_dim: int, config: CompactVLAConfig) -> ModelShape:
        for name, (height, width, depth) in spec.cameras.items():
            if depth != 3 or height % config.patch or width % config.patch:
                raise ConfigError(
                    f"Camera {name!r} gives {height}x{width}x{depth}; CompactVLA takes 3 channels and sides that are "
                    f"multiples of patch={config.patch}."
                )
        cameras = tuple(sorted((name, size[0], size[1]) for name, size in spec.cameras.items()))
        return cls(config, cameras, spec.proprio_dim, action_dim)

    @property
    def visual_dim(self) -> int:
        per_camera = 2 * self.config.keypoints + self.config.attention_maps * self.config.channels
        return len(self.cameras) * per_camera

    @property
    def feature_dim(self) -> int:
        return GROUNDING_DIM + len(self.cameras) * 2 * self.config.keypoints

    @property
    def context_dim(self) -> int:
        return self.visual_dim + GROUNDING_DIM + self.proprio_dim + self.config.text_dim


def init_params(shape: ModelShape, key: jax.Array) -> Params:
    """``{"text", "cameras", "ground", "head"}``."""
    config = shape.config
    k_text, k_ground, k_head, *k_cameras = jax.random.split(key, 3 + len(shape.cameras))
    ground_in = shape.visual_dim + shape.proprio_dim + config.text_dim
    head = HEADS[config.head]
    return {
        "text": {"embedding": jax.random.normal(k_text, (config.text_buckets, config.text_dim))},
        "cameras": {camera[0]: _camera_init(config, k) for camera, k in zip(shape.cameras, k_cameras, strict=True)},
        "ground": mlp_init(k_ground, (ground_in, config.grounding_width, config.grounding_width, GROUNDING_DIM), 0.1),
        "head": head.init(config, shape.context_dim, shape.action_dim, k_head),
    }


def identity_stats(shape: ModelShape) -> dict[str, np.ndarray]:
    """Normalisation before any data were seen. Arrays: proprio_* ``[P]``, action_* ``[A]``."""
    return {
        "proprio_mean": np.zeros(shape.proprio_dim, np.float32),
        "proprio_std": np.ones(shape.proprio_dim, np.float32),
        "action_mean": np.zeros(shape.action_dim, np.float32),
        "action_std": np.ones(shape.action_dim, np.float32),
        "action_low": -np.ones(shape.action_dim, np.float32),
        "action_high": np.ones(shape.action_dim, np.float32),
    }


def _camera_init(config: CompactVLAConfig, key: jax.Array) -> Params:
    keys = jax.random.split(key, 6)
    channels = config.channels
    return {
        "patch": mlp_init(keys[0], (3 * config.patch**2, config.stem, channels), 2**0.5),
        "film": dense_init(keys[1], config.text_dim, 2 * channels, 0.1),
        "conv1": conv_init(keys[2], 3, channels, channels, 2**0.5),
        "conv2": conv_init(keys[3], 3, channels, channels),
        "conv3": conv_init(keys[4], 3, channels, channels),
        "maps": dense_init(keys[5], channels, config.keypoints + config.attention_maps),
        "sharpness": jnp.zeros(config.keypoints + config.attention_maps),  # log of the inverse temperature
    }


def embed_text(params: Params, tokens: jax.Array) -> jax.Array:
    """Mean embedding of the tokens present, scaled to keep unit variance; ``[B, n] -> [B, D]``."""
    present = (tokens != PADDING).astype(jnp.float32)[..., None]
    total = jnp.sum(params["embedding"][tokens] * present, axis=1)
    return total / jnp.sqrt(jnp.maximum(present.sum(axis=1), 1.0))


def patches(image: jax.Array, side: int) -> jax.Array:
    """uint8 ``[B, h, w, 3]`` to float32 ``[B, h/side, w/side, 3*side*side]`` in [-1, 1]; every pixel is kept."""
    batch, height, width, depth = image.shape
    x = image.reshape(batch, height // side, side, width // side, side, depth).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // side, width // side, -1).astype(jnp.float32) / 127.5 - 1.0


def encode_camera(params: Params, config: CompactVLAConfig, image: jax.Array, text: jax.Array) -> tuple[jax.Array, ...]:
    """Keypoints ``[B, 2K]`` (x, y in [-1, 1]) and attended features ``[B, M*C]`` of one camera.

    The instruction modulates the channels (FiLM, Perez et al. 2018) before the spatial softmax
    (Finn et al. 2016), so that what a keypoint follows can depend on the task.
    """
    x = jax.nn.relu(mlp(params["patch"], patches(image, config.patch)))
    scale, shift = jnp.split(dense(params["film"], text)[:, None, None, :], 2, axis=-1)
    x = jax.nn.relu(conv(params["conv1"], x) * (1.0 + scale) + shift)
    x = x + jax.nn.relu(conv(params["conv2"], x))
    x = x + jax.nn.relu(conv(params["conv3"], x))
    batch, rows, columns, channels = x.shape
    x = x.reshape(batch, rows * columns, channels)
    logits = dense(params["maps"], x) * jnp.exp(params["sharpness"])
    attention = jax.nn.softmax(logits, axis=1)
    keypoints = jnp.einsum("bnk,nc->bkc", attention[..., : config.keypoints], _grid(rows, columns))
    attended = jnp.einsum("bnm,bnc->bmc", attention[..., config.keypoints :], x)
    return keypoints.reshape(batch, -1), attended.reshape(batch, -1)


def _grid(rows: int, columns: int) -> jax.Array:
    """Centres of the cells, float32 ``[rows*columns, 2]`` as (x, y) in [-1, 1]."""
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    return jnp.asarray(np.stack([x.ravel(), y.ravel()], axis=1), jnp.float32)


class Encoding(NamedTuple):
    """What the encoder makes of observations.

    grounding ``[B, 5]`` in cm, sin, cos; features ``[B, feature_dim]``, the same scaled to O(1), then the
    keypoints; context ``[B, context_dim]``, the action head's input.
    """

    grounding: jax.Array
    features: jax.Array
    context: jax.Array


def encode(
    params: Params,
    stats: Mapping[str, jax.Array],
    shape: ModelShape,
    images: Mapping[str, jax.Array],
    tokens: jax.Array,
    proprio: jax.Array,
) -> Encoding:
    """images ``{camera: uint8 [B, h, w, 3]}``, tokens int32 ``[B, n]``, proprio float32 ``[B, P]``."""
    text = embed_text(params["text"], tokens)
    state = (proprio - stats["proprio_mean"]) / stats["proprio_std"]
    views = [encode_camera(params["cameras"][name], shape.config, images[name], text) for name, _, _ in shape.cameras]
    keypoints = jnp.concatenate([state[:, :0], *(view[0] for view in views)], axis=1)
    attended = jnp.concatenate([state[:, :0], *(view[1] for view in views)], axis=1)
    grounding = mlp(params["ground"], jnp.concatenate([keypoints, attended, state, text], axis=1))
    scaled = scale_grounding(grounding)
    return Encoding(
        grounding=grounding,
        features=jnp.concatenate([scaled, keypoints], axis=1),
        context=jnp.concatenate([keypoints, attended, scaled, state, text], axis=1),
    )


def scale_grounding(grounding: jax.Array) -> jax.Array:
    """Centimetres through ``asinh(d / 2 mm) / 2``: millimetres near the target stay visible beside centimetres."""
    distance, angle = grounding[..., :3], grounding[..., 3:]
    return jnp.concatenate([jnp.arcsinh(distance / GROUNDING_SOFT_CM) / 2.0, angle], axis=-1)


def decode(
    params: Params,
    stats: Mapping[str, jax.Array],
    shape: ModelShape,
    context: jax.Array,
    key: jax.Array | None = None,
) -> jax.Array:
    """Context to action chunks ``[B, H, A]`` in [-1, 1], with the head that the configuration names.

    key: to draw from the head's distribution; without one its single answer.
    """
    actions = HEADS[shape.config.head].sample(params["head"], shape.config, stats, context, key)
    return jnp.clip(actions, -1.0, 1.0)


def action_loss(
    params: Params,
    stats: Mapping[str, jax.Array],
    shape: ModelShape,
    context: jax.Array,
    actions: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Scalar training loss of the head for chunks ``[B, H, A]``."""
    return HEADS[shape.config.head].loss(params["head"], shape.config, stats, context, actions, key)
