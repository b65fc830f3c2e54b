"""What may differ between two pictures of the same moment: where the camera looks, and the light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pld_core.errors import ConfigError


@dataclass(frozen=True)
class Augmentation:
    """shift: pixels in x and y, edges repeated; brightness: of 255, added; contrast, tint: relative, around
    the picture's mean and per colour."""

    shift: int = 2
    brightness: float = 0.08
    contrast: float = 0.15
    tint: float = 0.06

    def __post_init__(self) -> None:
        if self.shift < 0 or not all(0 <= v < 1 for v in (self.brightness, self.contrast, self.tint)):
            raise ConfigError(f"Augmentation needs shift >= 0 and the others in [0, 1); got {self}.")

    def __call__(self, key: jax.Array, images: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Altered float32 images (0 to 255) of uint8 ``{camera: [B, h, w, 3]}``; every one on its own."""
        keys = jax.random.split(key, len(images))
        return {name: self._alter(k, images[name]) for name, k in zip(sorted(images), keys, strict=True)}

    def _alter(self, key: jax.Array, frames: jax.Array) -> jax.Array:
        where, light, range_, colour = jax.random.split(key, 4)
        frames = self._moved(where, frames).astype(jnp.float32)
        count = len(frames)

        def spread(k: jax.Array, size: float, channels: int = 1) -> jax.Array:
            return size * jax.random.uniform(k, (count, 1, 1, channels), minval=-1.0, maxval=1.0)

        mean = frames.mean(axis=(1, 2, 3), keepdims=True)
        frames = mean + (frames - mean) * (1.0 + spread(range_, self.contrast))
        frames = frames * (1.0 + spread(colour, self.tint, 3)) + 255.0 * spread(light, self.brightness)
        return jnp.clip(frames, 0.0, 255.0)

    def _moved(self, key: jax.Array, frames: jax.Array) -> jax.Array:
        pad = self.shift
        if pad == 0:
            return frames
        padded = jnp.pad(frames, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
        corners = jax.random.randint(key, (len(frames), 2), 0, 2 * pad + 1)
        return jax.vmap(lambda x, c: jax.lax.dynamic_slice(x, (c[0], c[1], 0), frames.shape[1:]))(padded, corners)
