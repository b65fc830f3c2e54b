"""Batches that are part offline, part online data (RLPD's symmetric sampling, PLD's half and half)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pld_core.data.replay import Batch, ReplayBuffer
from pld_core.errors import ConfigError


@dataclass(frozen=True)
class SymmetricReplay:
    """Draws ``offline_fraction`` of every batch from ``offline`` and the rest from ``online``.

    While one of the two is empty (before the first online episode, or with no offline data) the
    other serves the whole batch.
    """

    offline: ReplayBuffer
    online: ReplayBuffer
    offline_fraction: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.offline_fraction <= 1.0:
            raise ConfigError(f"offline_fraction is {self.offline_fraction}; valid is 0 to 1.")

    def __len__(self) -> int:
        return len(self.offline) + len(self.online)

    def sample(self, rng: np.random.Generator, n: int) -> Batch:
        """One batch ``[B, ...]``: offline transitions first, online after them."""
        return self._draw(rng, None, n)

    def sample_many(self, rng: np.random.Generator, batches: int, n: int) -> Batch:
        """``[K, B, ...]``, every one of the K batches with the same split."""
        return self._draw(rng, batches, n)

    def _draw(self, rng: np.random.Generator, batches: int | None, n: int) -> Batch:
        from_offline = self._share(n)
        parts = [(self.offline, from_offline), (self.online, n - from_offline)]
        drawn = [
            source.sample(rng, size) if batches is None else source.sample_many(rng, batches, size)
            for source, size in parts
            if size > 0
        ]
        return drawn[0] if len(drawn) == 1 else _join(drawn[0], drawn[1], axis=0 if batches is None else 1)

    def _share(self, n: int) -> int:
        if len(self.online) == 0:
            return n
        if len(self.offline) == 0:
            return 0
        return round(n * self.offline_fraction)


def _join(a: Batch, b: Batch, axis: int) -> Batch:
    columns = {name: np.concatenate([getattr(a, name), getattr(b, name)], axis) for name in Batch._fields[:-2]}
    return Batch(
        **columns,
        images={k: np.concatenate([v, b.images[k]], axis) for k, v in a.images.items()},
        next_images={k: np.concatenate([v, b.next_images[k]], axis) for k, v in a.next_images.items()},
    )
