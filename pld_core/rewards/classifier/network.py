"""The classifier's network: images (and proprioception, if wanted) to one logit.

Letters: ``B`` batch, ``h, w`` image, ``P`` proprioception, ``F`` features, ``D`` instruction embedding.
The encoder is CompactVLA's (patches, convolutions, keypoints, attended features): positions survive it, and what a
policy has learnt to see can be taken over as a start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pld_core.errors import ConfigError
from pld_core.types import ObservationSpec
from pld_core.vla.compact_vla import CompactVLA
from pld_core.vla.instruction import tokenise
from pld_core.vla.layers import Params, mlp, mlp_init
from pld_core.vla.model import CompactVLAConfig, ModelShape, embed_text, encode_camera, init_params

Stats = Mapping[str, Any]


@dataclass(frozen=True)
class NetworkShape:
    """Everything that fixes array shapes; hashable, so that compiled functions are shared."""

    cameras: tuple[tuple[str, int, int], ...]  # name, height, width in pixels; sorted by name
    proprio_dim: int  # 0: no proprioception
    hidden: tuple[int, ...] = (128, 64)
    encoder: CompactVLAConfig = field(default_factory=CompactVLAConfig)

    @property
    def feature_dim(self) -> int:
        """F: what the encoder says of all cameras."""
        per_camera = 2 * self.encoder.keypoints + self.encoder.attention_maps * self.encoder.channels
        return len(self.cameras) * per_camera


def init_network(shape: NetworkShape, seed: int) -> tuple[Params, dict[str, np.ndarray]]:
    """Fresh weights ``{"cameras", "head"}`` and statistics (text ``[D]``, proprio_mean and proprio_std ``[P]``)."""
    sizes = {name: (height, width, 3) for name, height, width in shape.cameras}
    model = ModelShape.of(ObservationSpec(sizes, shape.proprio_dim), 1, shape.encoder)
    key, head_key = jax.random.split(jax.random.key(seed))
    head = mlp_init(head_key, (shape.feature_dim + shape.proprio_dim, *shape.hidden, 1), 0.1)
    stats = {
        "text": np.zeros(shape.encoder.text_dim, np.float32),
        "proprio_mean": np.zeros(shape.proprio_dim, np.float32),
        "proprio_std": np.ones(shape.proprio_dim, np.float32),
    }
    return {"cameras": init_params(model, key)["cameras"], "head": head}, stats


def take_eyes(policy: CompactVLA, cameras: Sequence[tuple[str, int, int]], instruction: str) -> tuple[Params, Any]:
    """``(camera weights, text [D])`` of a policy, as a start. Raises ConfigError where its cameras do not fit."""
    missing = sorted(set(cameras) - set(policy.shape.cameras))
    if missing:
        raise ConfigError(
            f"The base policy has no eyes for {missing} (name, height, width); it has {list(policy.shape.cameras)}. "
            "Train from fresh weights with --encoder scratch."
        )
    tokens = tokenise(instruction, policy.shape.config.text_buckets)[None]
    text = np.asarray(embed_text(policy.params["text"], jnp.asarray(tokens))[0])
    return {name: policy.params["cameras"][name] for name, _, _ in cameras}, text


def see(params: Params, stats: Stats, shape: NetworkShape, images: Mapping[str, jax.Array]) -> jax.Array:
    """Features ``[B, F]`` of images ``{camera: [B, h, w, 3]}`` (0 to 255)."""
    count = len(next(iter(images.values())))
    text = jnp.broadcast_to(stats["text"], (count, shape.encoder.text_dim))
    views = [encode_camera(params["cameras"][name], shape.encoder, images[name], text) for name, _, _ in shape.cameras]
    return jnp.concatenate([part for view in views for part in view], axis=1)


def logits_of(params: Params, stats: Stats, shape: NetworkShape, features: jax.Array, proprio: jax.Array) -> jax.Array:
    """Logits ``[B]`` from features ``[B, F]`` and proprioception ``[B, P]`` (``P`` may be 0)."""
    state = (proprio - stats["proprio_mean"]) / stats["proprio_std"]
    return mlp(params["head"], jnp.concatenate([features, state], axis=1))[:, 0]


@partial(jax.jit, static_argnames=("shape",))
def judge(shape: NetworkShape, params: Params, stats: Stats, images: Any, proprio: jax.Array):
    """Logits ``[B]`` and features ``[B, F]``; compiled once per shape and batch size."""
    features = see(params, stats, shape, images)
    return logits_of(params, stats, shape, features, proprio), features


def judge_many(
    shape: NetworkShape,
    params: Params,
    stats: Stats,
    images: Mapping[str, np.ndarray],
    proprio: np.ndarray,
    block: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """As ``judge`` for any number of frames, a block at a time."""
    total = len(proprio)
    logits, features = np.zeros(total, np.float32), np.zeros((total, shape.feature_dim), np.float32)
    for block_number in range(math.ceil(total / block)):
        rows = np.minimum(np.arange(block) + block_number * block, total - 1)  # the last block is filled up
        seen = {name: images[name][rows] for name, _, _ in shape.cameras}
        found = judge(shape, params, stats, seen, proprio[rows, : shape.proprio_dim])
        logits[rows], features[rows] = (np.asarray(part) for part in found)
    return logits, features
