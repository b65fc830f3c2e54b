"""What a classifier is worth on episodes that it has never seen: per frame and per episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pld_core.rewards.debounce import Debounce
from pld_core.statistics import wilson


@dataclass(frozen=True)
class Scored:
    """One episode: probability ``[N]``, success bool ``[N]`` (the truth), allowed bool ``[N]`` (the predicate)."""

    name: str
    source: str
    probability: np.ndarray
    success: np.ndarray
    allowed: np.ndarray

    @property
    def succeeds(self) -> bool:
        return bool(self.success.any())

    def positive(self, threshold: float) -> np.ndarray:
        """The verdict on every frame, before the debounce."""
        return (self.probability >= threshold) & self.allowed

    def fires(self, threshold: float, debounce: Debounce) -> int | None:
        """The frame at which the verdict latches."""
        return debounce.first(self.positive(threshold))


def measure(episodes: Sequence[Scored], threshold: float, debounce: Debounce) -> dict[str, Any]:
    """Rates with their counts and 95 % intervals, for metrics.json.

    frames: every frame by itself. episodes: the debounced verdict; ``false_positive`` of failed episodes,
    ``recall`` of successful ones, ``early``: it fires in a successful episode before the task is done.
    A success too short for the debounce (a peg that touches the mark and comes back) is ``fleeting``, and
    neither: whatever is said of it is right.
    """
    truth = np.concatenate([e.success for e in episodes])
    verdict = np.concatenate([e.positive(threshold) for e in episodes])
    fired = [e.fires(threshold, debounce) for e in episodes]
    failed = [f is not None for e, f in zip(episodes, fired) if not e.succeeds]
    fleeting = [e.succeeds and debounce.first(e.success) is None for e in episodes]
    done = [(e, f) for e, f, short in zip(episodes, fired, fleeting) if e.succeeds and not short]
    lead = [int(np.argmax(e.success)) - f for e, f in done if f is not None]
    return {
        "frames": {
            "false_positive": rate(int((verdict & ~truth).sum()), int((~truth).sum())),
            "recall": rate(int((verdict & truth).sum()), int(truth.sum())),
            "precision": rate(int((verdict & truth).sum()), int(verdict.sum())),
        },
        "episodes": {
            "false_positive": rate(sum(failed), len(failed)),
            "recall": rate(sum(f is not None for _, f in done), len(done)),
            "fleeting": sum(fleeting),
            "early": rate(sum(ticks > 0 for ticks in lead), len(done)),
            "delay_ticks": {
                "median": float(-np.median(lead)) if lead else None,
                "earliest": -max(lead, default=0),
                "latest": -min(lead, default=0),
            },
        },
    }


def rate(count: int, of: int) -> dict[str, Any]:
    low, high = wilson(count, of)
    return {"count": count, "of": of, "rate": count / of if of else 0.0, "ci95": [low, high]}


def roc(episodes: Sequence[Scored]) -> tuple[np.ndarray, np.ndarray, float]:
    """False and true positive rates ``[N + 1]`` of all frames over every threshold, and the area underneath."""
    probability = np.concatenate([np.where(e.allowed, e.probability, 0.0) for e in episodes])
    truth = np.concatenate([e.success for e in episodes])
    order = np.argsort(-probability, kind="stable")
    ranked, hits = probability[order], truth[order]
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # frames of one score count together
    true = np.append(0, np.cumsum(hits)[last]) / max(1, hits.sum())
    false = np.append(0, np.cumsum(~hits)[last]) / max(1, (~hits).sum())
    return false, true, float(np.trapezoid(true, false))
