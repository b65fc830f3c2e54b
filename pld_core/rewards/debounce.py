"""N of M: a verdict is believed when it held in enough of the last ticks, and then it stays."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pld_core.errors import ConfigError


@dataclass(frozen=True)
class Debounce:
    """``needed`` positive ticks among the last ``window``."""

    needed: int = 2
    window: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.needed <= self.window:
            raise ConfigError(
                f"debounce is {self.needed} of {self.window}; valid is N of M with 1 <= N <= M, as in `--debounce 2 3`."
            )

    def first(self, positive: Sequence[bool] | np.ndarray) -> int | None:
        """The tick at which the latch closes on a whole episode of verdicts, or None."""
        votes = np.asarray(positive, np.int64)
        total = np.cumsum(votes)
        total[self.window :] -= total[: -self.window].copy()
        ticks = np.flatnonzero(total >= self.needed)
        return int(ticks[0]) if len(ticks) else None

    def __str__(self) -> str:
        return f"{self.needed} of {self.window}"


def clear_latch(judge: object) -> None:
    """Have a reward model forget its verdicts, and nothing else of the episode; one without a latch is left alone."""
    clear = getattr(judge, "clear_latch", None)
    if clear is not None:
        clear()


class Latch:
    """The running form of a Debounce, of one episode."""

    def __init__(self, rule: Debounce) -> None:
        self.rule = rule
        self.reset()

    def reset(self) -> None:
        self.closed = False
        self._votes: deque[bool] = deque(maxlen=self.rule.window)

    def see(self, positive: bool) -> bool:
        """Whether the latch is closed after this tick's verdict."""
        self._votes.append(positive)
        self.closed |= sum(self._votes) >= self.rule.needed
        return self.closed
