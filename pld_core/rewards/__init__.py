"""Reward models."""

from pld_core.rewards.binary import BinaryReward, binary

__all__ = ["BinaryReward", "binary"]
