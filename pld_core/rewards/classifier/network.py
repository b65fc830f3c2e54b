"""The classifier's network: images (and proprioception, if wanted) to one logit.

Letters: ``B`` batch, ``N`` frames, ``h, w`` image, ``P`` proprioception, ``F`` features of one pair of eyes, ``D``
instruction embedding, ``M`` numbers remembered of the episode (see ``memory``), ``K`` memories, whose logits are
averaged: they differ where the pictures leave it open.
The encoder is CompactVLA's (patches, convolutions, keypoints, attended features): positions survive it, and what a
policy has learnt to see can be taken over as a start. A memory also gets what the eyes saw before they were trained:
they tell where things are, the trained ones whether the task is done.
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
from pld_core.rewards.classifier.memory import enter, init_memory, remember, unroll
from pld_core.types import ObservationSpec
from pld_core.vla.compact_vla import CompactVLA
from pld_core.vla.instruction import tokenise
from pld_core.vla.layers import Params, mlp, mlp_init
from pld_core.vla.model import CompactVLAConfig, ModelShape, embed_text, encode_camera, init_params

Stats = Mapping[str, Any]
UNSEEN = -30.0  # logit of the frame before an episode's first tick, which a reward never sees
BLOCK = 64  # frames looked at together: their activations stay in a core's cache
_EPISODES = 32  # unrolled at a time


@dataclass(frozen=True)
class NetworkShape:
    """Everything that fixes array shapes; hashable, so that compiled functions are shared."""

    cameras: tuple[tuple[str, int, int], ...]  # name, height, width in pixels; sorted by name
    proprio_dim: int  # 0: no proprioception
    hidden: tuple[int, ...] = (128, 64)
    encoder: CompactVLAConfig = field(default_factory=CompactVLAConfig)
    memory_dim: int = 0  # M; 0: every picture is judged by itself
    memories: int = 1  # K

    @property
    def feature_dim(self) -> int:
        """F: what the encoder says of all cameras."""
        per_camera = 2 * self.encoder.keypoints + self.encoder.attention_maps * self.encoder.channels
        return len(self.cameras) * per_camera


def init_network(shape: NetworkShape, seed: int) -> tuple[Params, dict[str, np.ndarray]]:
    """Fresh weights and statistics: text ``[D]``, mean and spread of the proprioception ``[P]`` and of the features of
    both pairs of eyes ``[2 F]``.

    Weights: "cameras" and "head", which judge a picture by itself; "given", the eyes as they were before training,
    and "memory".
    """
    sizes = {name: (height, width, 3) for name, height, width in shape.cameras}
    model = ModelShape.of(ObservationSpec(sizes, shape.proprio_dim), 1, shape.encoder)
    key, head_key = jax.random.split(jax.random.key(seed))
    cameras = init_params(model, key)["cameras"]
    inputs = shape.feature_dim + shape.proprio_dim
    stats = {
        "text": np.zeros(shape.encoder.text_dim, np.float32),
        "proprio_mean": np.zeros(shape.proprio_dim, np.float32),
        "proprio_std": np.ones(shape.proprio_dim, np.float32),
        "feature_mean": np.zeros(2 * shape.feature_dim, np.float32),
        "feature_std": np.ones(2 * shape.feature_dim, np.float32),
    }
    params: Params = {"cameras": cameras, "head": mlp_init(head_key, (inputs, *shape.hidden, 1), 0.1)}
    if not shape.memory_dim:
        return params | {"given": {}, "memory": {}}, stats
    keys = jax.random.split(jax.random.fold_in(head_key, 1), shape.memories)
    inputs_and_size = 2 * shape.feature_dim, shape.proprio_dim, shape.memory_dim
    return params | {"given": cameras, "memory": jax.vmap(lambda key: init_memory(key, *inputs_and_size))(keys)}, stats


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


def see_twice(params: Params, stats: Stats, shape: NetworkShape, images: Mapping[str, jax.Array]) -> jax.Array:
    """What a memory gets, ``[B, 2 F]``: features of the trained eyes and of the given ones."""
    return jnp.concatenate([see(params[eyes], stats, shape, images) for eyes in ("cameras", "given")], axis=1)


def normal_proprio(stats: Stats, proprio: jax.Array) -> jax.Array:
    return (proprio - stats["proprio_mean"]) / stats["proprio_std"]


def normal_features(stats: Stats, features: jax.Array) -> jax.Array:
    return (features - stats["feature_mean"]) / stats["feature_std"]


def logits_of(params: Params, stats: Stats, features: jax.Array, proprio: jax.Array) -> jax.Array:
    """Logits ``[B]`` of pictures by themselves: features ``[B, F]``, proprioception ``[B, P]`` (``P`` may be 0)."""
    return mlp(params["head"], jnp.concatenate([features, normal_proprio(stats, proprio)], axis=1))[:, 0]


def take_in(memory: Params, stats: Stats, features: jax.Array, proprio: jax.Array) -> jax.Array:
    """What the memories take in, ``[K, ..., M]``, of ``see_twice`` and the proprioception."""
    seen = normal_features(stats, features), normal_proprio(stats, proprio)
    return jax.vmap(enter, in_axes=(0, None, None))(memory, *seen)


@partial(jax.jit, static_argnames=("shape",))
def judge(shape: NetworkShape, params: Params, stats: Stats, images: Any, proprio: jax.Array, memory: jax.Array):
    """Logits ``[B]``, features of the trained eyes ``[B, F]`` and the memory ``[K, B, M]`` after this tick; memory:
    before it, zeros at an episode's beginning. Compiled once per shape and batch size."""
    if not shape.memory_dim:
        features = see(params["cameras"], stats, shape, images)
        return logits_of(params, stats, features, proprio), features, memory
    features = see_twice(params, stats, shape, images)
    entered = take_in(params["memory"], stats, features, proprio)
    memory, logits = jax.vmap(remember)(params["memory"], memory, entered)
    return logits.mean(axis=0), features[:, : shape.feature_dim], memory


def judge_many(
    shape: NetworkShape,
    params: Params,
    stats: Stats,
    images: Mapping[str, np.ndarray],
    proprio: np.ndarray,
    episode: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits ``[N]`` and features of the trained eyes ``[N, F]`` of whole episodes, a block at a time; episode: which
    one each frame is of, int ``[N]``, in order."""
    proprio = proprio[:, : shape.proprio_dim]
    if shape.memory_dim:
        features = look(shape, params, stats, images)
        entered = np.asarray(jax.jit(take_in)(params["memory"], stats, features, proprio))
        return _unrolled(params, entered, episode), features[:, : shape.feature_dim]
    parts = [judge(shape, params, stats, seen(shape, images, rows), proprio[rows], np.zeros((BLOCK, 0)))
             for rows in blocks(len(proprio), BLOCK)]  # fmt: skip
    logits, features = (np.concatenate([np.asarray(part[k]) for part in parts]) for k in (0, 1))
    return logits[: len(proprio)], features[: len(proprio)]


def look(shape: NetworkShape, params: Params, stats: Stats, images: Mapping[str, np.ndarray]) -> np.ndarray:
    """``see_twice`` of any number of frames, float32 ``[N, 2 F]``."""
    total = len(next(iter(images.values())))
    parts = [_look(shape, params, stats, seen(shape, images, rows)) for rows in blocks(total, BLOCK)]
    return np.concatenate([np.asarray(part) for part in parts])[:total]


@partial(jax.jit, static_argnames=("shape",))
def _look(shape: NetworkShape, params: Params, stats: Stats, images: Any) -> jax.Array:
    return see_twice(params, stats, shape, images)


def _unrolled(params: Params, entered: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """Logits ``[N]``; an episode's first frame was there before the reward was asked."""
    logits = np.full(len(episode), UNSEEN, np.float32)
    numbers, start, length = np.unique(episode, return_index=True, return_counts=True)
    longest = int(length.max()) - 1
    run = jax.jit(lambda params, entered: jax.vmap(unroll)(params, entered).mean(axis=0))
    for rows in blocks(len(numbers), _EPISODES):
        padded = np.zeros((len(entered), len(rows), longest, entered.shape[2]), np.float32)
        for k, n in enumerate(rows):
            padded[:, k, : length[n] - 1] = entered[:, start[n] + 1 : start[n] + length[n]]
        found = np.asarray(run(params["memory"], padded))
        for k, n in enumerate(rows):
            logits[start[n] + 1 : start[n] + length[n]] = found[k, : length[n] - 1]
    return logits


def blocks(total: int, size: int) -> list[np.ndarray]:
    """Row numbers in blocks of one size; the last one is filled up with the last row."""
    return [np.minimum(np.arange(size) + low, total - 1) for low in range(0, total, size)]


def seen(shape: NetworkShape, images: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """These frames of the cameras that the network has."""
    return {name: images[name][rows] for name, _, _ in shape.cameras}
