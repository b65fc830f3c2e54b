"""Which seeds belong to which purpose: no evaluation seed is ever used in training."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

_BLOCK = 1_000_000
_PURPOSES = ("demonstrate", "harvest", "learn", "probe", "validate", "reward")
_TEST = 2_000_000_000  # the same test episodes for every run, so that runs can be compared
MOST_RUNS = 200


def training_seeds(purpose: str, run_seed: int) -> Iterator[int]:
    """Endless distinct seeds, below 1.2 * 10**9, of one purpose in one run."""
    if not 0 <= run_seed < MOST_RUNS:
        raise ValueError(f"seed {run_seed} is outside 0..{MOST_RUNS - 1}, where seeds of runs stay apart")
    return count((_PURPOSES.index(purpose) * MOST_RUNS + run_seed) * _BLOCK)


def test_seeds(episodes: int) -> list[int]:
    """The held-out seeds that every evaluation uses."""
    return [_TEST + k for k in range(episodes)]
