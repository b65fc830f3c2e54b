"""Grounding: the stand-in for a large VLA's visual pre-training.

The encoder learns to say where the tool is relative to the instruction's target, from labelled frames.
The loss is absolute error in centimetres, weighted up near the target: there tenths of millimetres
decide, far from it a few millimetres do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pld_core.errors import ContractError
from pld_core.vla.frames import GroundingFrames
from pld_core.vla.instruction import tokenise
from pld_core.vla.layers import Params
from pld_core.vla.model import ModelShape, encode
from pld_core.vla.training import Batch, Progress, TrainConfig, fit

GROUNDED = ("text", "cameras", "ground")  # what this stage trains
NEAR_CM = 3.0  # frames nearer than this weigh most: around first contact, not only at the goal
YAW_WEIGHT_CM = 2.0  # an error of 0.1 rad counts as 2 mm


def grounding_error(predicted: jax.Array, labels: jax.Array) -> jax.Array:
    """Weighted absolute error, scalar. predicted, labels ``[B, 5]``."""
    distance = jnp.linalg.norm(labels[:, :3], axis=1, keepdims=True)
    weight = NEAR_CM / (NEAR_CM + distance)
    error = jnp.abs(predicted - labels)
    return jnp.mean(weight * jnp.concatenate([error[:, :3], YAW_WEIGHT_CM * error[:, 3:]], axis=1)) * 5.0


@dataclass(frozen=True)
class GroundingLoss:
    """Loss of ``{"text", "cameras", "ground"}`` on a batch of labelled frames."""

    shape: ModelShape

    def __call__(self, params: Params, stats: Any, batch: Batch, key: jax.Array) -> jax.Array:
        encoding = encode(params, stats, self.shape, batch["images"], batch["tokens"], batch["proprio"])
        return grounding_error(encoding.grounding, batch["labels"])


def pretrain(
    params: Params,
    stats: dict[str, np.ndarray],
    shape: ModelShape,
    frames: GroundingFrames,
    config: TrainConfig,
    fingerprint: str = "",
    state_path: Path | None = None,
    progress: Progress | None = None,
) -> Params:
    """Parameters with text, cameras and grounding trained; the action head stays as it was."""
    missing = {name for name, _, _ in shape.cameras} - set(frames.images)
    if missing or frames.proprio.shape[1] != shape.proprio_dim:
        raise ContractError(
            f"Grounding frames have cameras {sorted(frames.images)} and proprio {frames.proprio.shape[1:]}; this "
            f"policy needs cameras {[c[0] for c in shape.cameras]} and proprio ({shape.proprio_dim},)."
        )
    tokens = np.stack([tokenise(text, shape.config.text_buckets) for text in frames.instructions])

    def batch_at(step: int) -> Batch:
        rows = np.random.default_rng((config.seed, step)).integers(len(frames), size=config.batch_size)
        return {
            "images": {name: frames.images[name][rows] for name, _, _ in shape.cameras},
            "tokens": tokens[frames.instruction_ids[rows]],
            "proprio": frames.proprio[rows],
            "labels": frames.labels[rows],
        }

    trainable = {name: params[name] for name in GROUNDED}
    trained = fit(
        GroundingLoss(shape), trainable, stats, batch_at, config,
        fingerprint=fingerprint, state_path=state_path, progress=progress,
    )  # fmt: skip
    return {**params, **trained}
