"""Image encoders of the learner."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from pld_core.rl.config import LearnerConfig
from pld_core.rl.networks import Params


def encode(config: LearnerConfig, encoder: Params, state: jax.Array, images: Mapping[str, jax.Array]) -> jax.Array:
    """State ``[B, S]`` with the latent of the images appended."""
    return state


def random_shift(config, key, images, next_images):
    return images, next_images
