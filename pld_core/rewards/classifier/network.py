"""The classifier's network: images (and proprioception, if wanted) to one logit.

Letters: ``B`` batch, ``h, w`` image, ``P`` proprioception, ``F`` features, ``D`` instruction embedding, ``S`` what
is kept of the episode's first picture. One picture may not tell enough: of a peg halfway in its hole the tip is
hidden, and how deep it is depends on how far it stuck out of the hand, which was to be seen before.
The encoder is CompactVLA's (patches, convolutions, keypoints, attended features): positions survive it, and what a
policy has learnt to see can be taken over as a start.
"""

from __future__ import annotations

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
from pld_core.vla.layers import Params, dense, dense_init, mlp, mlp_init
from pld_core.vla.model import CompactVLAConfig, ModelShape, embed_text, encode_camera, init_params

Stats = Mapping[str, Any]


@dataclass(frozen=True)
class NetworkShape:
    """Everything that fixes array shapes; hashable, so that compiled functions are shared."""

    cameras: tuple[tuple[str, int, int], ...]  # name, height, width in pixels; sorted by name
    proprio_dim: int  # 0: no proprioception
    hidden: tuple[int, ...] = (128, 64)
    encoder: CompactVLAConfig = field(default_factory=CompactVLAConfig)
    start_dim: int = 0  # S; 0: every picture is judged by itself

    @property
    def feature_dim(self) -> int:
        """F: what the encoder says of all cameras."""
        per_camera = 2 * self.encoder.keypoints + self.encoder.attention_maps * self.encoder.channels
        return len(self.cameras) * per_camera


def init_network(shape: NetworkShape, seed: int) -> tuple[Params, dict[str, np.ndarray]]:
    """Fresh weights and statistics: text ``[D]``, mean and spread of the proprioception ``[P]`` and of the features of
    first pictures ``[F]``.

    Weights: "cameras" and "head"; "start_eyes", which see first pictures and are not trained, and "start", the layer
    behind them.
    """
    sizes = {name: (height, width, 3) for name, height, width in shape.cameras}
    model = ModelShape.of(ObservationSpec(sizes, shape.proprio_dim), 1, shape.encoder)
    key, head_key = jax.random.split(jax.random.key(seed))
    cameras = init_params(model, key)["cameras"]
    inputs = shape.feature_dim + shape.start_dim + shape.proprio_dim
    stats = {
        "text": np.zeros(shape.encoder.text_dim, np.float32),
        "proprio_mean": np.zeros(shape.proprio_dim, np.float32),
        "proprio_std": np.ones(shape.proprio_dim, np.float32),
        "start_mean": np.zeros(shape.feature_dim, np.float32),
        "start_std": np.ones(shape.feature_dim, np.float32),
    }
    params: Params = {"cameras": cameras, "head": mlp_init(head_key, (inputs, *shape.hidden, 1), 0.1)}
    if not shape.start_dim:
        return params | {"start": {}, "start_eyes": {}}, stats
    layer = dense_init(jax.random.fold_in(head_key, 1), shape.feature_dim, shape.start_dim)
    return params | {"start": layer, "start_eyes": cameras}, stats


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


def see(eyes: Params, stats: Stats, shape: NetworkShape, images: Mapping[str, jax.Array]) -> jax.Array:
    """Features ``[B, F]`` of images ``{camera: [B, h, w, 3]}`` (0 to 255); eyes: weights per camera."""
    count = len(next(iter(images.values())))
    text = jnp.broadcast_to(stats["text"], (count, shape.encoder.text_dim))
    views = [encode_camera(eyes[name], shape.encoder, images[name], text) for name, _, _ in shape.cameras]
    return jnp.concatenate([part for view in views for part in view], axis=1)


def keep(stats: Stats, features: jax.Array) -> jax.Array:
    """First pictures' features ``[B, F]``, each entry in units of its spread."""
    return (features - stats["start_mean"]) / stats["start_std"]


def logits_of(
    params: Params, stats: Stats, shape: NetworkShape, features: jax.Array, start: jax.Array, proprio: jax.Array
) -> jax.Array:
    """Logits ``[B]`` from features ``[B, F]``, ``keep`` of the first pictures ``[B, F]`` (unused where S is 0) and
    proprioception ``[B, P]`` (``P`` may be 0)."""
    kept = dense(params["start"], start) if shape.start_dim else start[:, :0]
    state = (proprio - stats["proprio_mean"]) / stats["proprio_std"]
    return mlp(params["head"], jnp.concatenate([features, kept, state], axis=1))[:, 0]


@partial(jax.jit, static_argnames=("shape",))
def first_look(shape: NetworkShape, params: Params, stats: Stats, images: Any) -> jax.Array:
    """What ``judge`` needs to know of the first pictures of episodes, ``[B, F]``."""
    if not shape.start_dim:
        return jnp.zeros((len(next(iter(images.values()))), shape.feature_dim))
    return keep(stats, see(params["start_eyes"], stats, shape, images))


@partial(jax.jit, static_argnames=("shape",))
def judge(shape: NetworkShape, params: Params, stats: Stats, images: Any, start: jax.Array, proprio: jax.Array):
    """Logits ``[B]`` and features ``[B, F]``; compiled once per shape and batch size."""
    features = see(params["cameras"], stats, shape, images)
    return logits_of(params, stats, shape, features, start, proprio), features


def judge_many(
    shape: NetworkShape,
    params: Params,
    stats: Stats,
    images: Mapping[str, np.ndarray],
    proprio: np.ndarray,
    first: np.ndarray,
    block: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """As ``judge`` for any number of frames, a block at a time; first: the row of each frame's first picture."""
    total = len(proprio)
    logits, features = np.zeros(total, np.float32), np.zeros((total, shape.feature_dim), np.float32)
    beginnings, which = np.unique(first, return_inverse=True)
    starts = np.concatenate(
        [
            np.asarray(first_look(shape, params, stats, _seen(shape, images, beginnings[rows])))
            for rows in _blocks(len(beginnings), block)
        ]
    )
    for rows in _blocks(total, block):
        seen = _seen(shape, images, rows)
        found = judge(shape, params, stats, seen, starts[which[rows]], proprio[rows, : shape.proprio_dim])
        logits[rows], features[rows] = (np.asarray(part) for part in found)
    return logits, features


def _blocks(total: int, size: int) -> list[np.ndarray]:
    """Row numbers in blocks of one size; the last one is filled up with the last row."""
    return [np.minimum(np.arange(size) + low, total - 1) for low in range(0, total, size)]


def _seen(shape: NetworkShape, images: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: images[name][rows] for name, _, _ in shape.cameras}
