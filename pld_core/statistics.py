"""Uncertainty of success rates: no rate is shown without its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pld_core.errors import ContractError

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def wilson(successes: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a binomial proportion (Wilson 1927), within [0, 1].

    Unlike the normal approximation it stays sensible at 0 of n and n of n; ``n = 0`` gives (0, 1).
    """
    if n < 0 or not 0 <= successes <= n:
        raise ContractError(f"successes must be between 0 and n; got {successes} of {n}.")
    if n == 0:
        return 0.0, 1.0
    rate, z2 = successes / n, z * z
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # At the ends the interval touches 0 or 1 exactly; rounding must not push it past them.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


@dataclass(frozen=True)
class SuccessRate:
    """Successes out of episodes, with the Wilson 95 % interval."""

    successes: int
    episodes: int

    @property
    def rate(self) -> float:
        return self.successes / self.episodes if self.episodes else 0.0

    @property
    def ci95(self) -> tuple[float, float]:
        return wilson(self.successes, self.episodes)

    def to_dict(self) -> dict[str, Any]:
        """The form that eval.json uses."""
        low, high = self.ci95
        return {
            "successes": self.successes,
            "episodes": self.episodes,
            "rate": round(self.rate, 4),
            "ci95": [round(low, 4), round(high, 4)],
        }

    def __str__(self) -> str:
        low, high = self.ci95
        return f"{100 * self.rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}] ({self.successes}/{self.episodes})"
