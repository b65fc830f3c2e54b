"""Sparse binary reward: 1 at success, 0 otherwise."""

from __future__ import annotations

from pld_core.types import TimeStep


class BinaryReward:
    """Takes the environment's own success signal. Implements interfaces.RewardModel."""

    def reset(self) -> None:
        return None

    def score(self, step: TimeStep) -> tuple[float, bool]:
        return float(step.success), step.success


def binary() -> BinaryReward:
    """The reward of the paper."""
    return BinaryReward()
