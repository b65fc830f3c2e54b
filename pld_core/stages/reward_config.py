"""The settings of ``pld reward-train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pld_core.errors import ConfigError
from pld_core.rewards.debounce import Debounce
from pld_core.stages.seeds import MOST_RUNS


@dataclass(frozen=True)
class RewardTrainConfig:
    """Where the labelled episodes come from, what the classifier sees, and how strict it is."""

    data: tuple[Path, ...] = ()  # folders of recorded, labelled episodes with images
    held_out: tuple[Path, ...] = ()  # folders that are only measured; empty: a part of the others is held out
    task: str = ""  # simulated: its episodes are collected first; together with data, both are used
    episodes: int = 2400  # to collect
    seed: int = 0
    out: str = ""  # folder of results; empty: runs/reward-<task>-seed<seed>
    policy: str = "compact"  # that drives a part of the episodes: compact, an installed name, or module:factory
    lanes: int = 8  # environments stepped together while collecting
    cameras: tuple[str, ...] = ()  # what the classifier sees; empty: all that were recorded
    proprio: bool = True  # does it also get the proprioception?
    encoder: Literal["base", "scratch"] = "base"  # start from the base policy's eyes, or from fresh weights
    memory_dim: int = 96  # numbers that it remembers of an episode; 0: each picture is judged by itself
    memories: int = 4  # that are averaged: where a picture leaves it open, they differ
    memory_steps: int = 3000  # gradient steps of the memory, after those of the eyes
    hidden: tuple[int, ...] = (128, 64)  # widths of the MLP on top
    steps: int = 4000  # gradient steps before hard negatives are mined; each mining round adds half as many
    mining_rounds: int = 2
    batch_size: int = 64
    learning_rate: float = 1e-3
    shift: int = 2  # pixels that a training image may be moved by
    brightness: float = 0.08  # and what its light may change by, see rewards/classifier/augment.py
    contrast: float = 0.15
    tint: float = 0.06
    max_false_positive_rate: float = 0.01  # per negative frame and per failed episode, on validation episodes
    debounce: tuple[int, int] = (2, 3)  # N of M: positive in N of the last M ticks
    predicate: str = ""  # must hold as well, e.g. "tool_z_m < 0.12 and gripper_width_m > 0.01"
    robot: str = ""  # station that names the proprioception of recorded data, for a predicate

    def __post_init__(self) -> None:
        if not (self.task or self.data):
            raise ConfigError("Give --task NAME to collect episodes in simulation, or --data FOLDER of recorded ones.")
        counts = {k: getattr(self, k) for k in ("episodes", "lanes", "steps", "batch_size", "memories", "memory_steps")}
        if min(counts.values()) < 1 or min(self.shift, self.memory_dim) < 0:
            raise ConfigError(
                f"{', '.join(counts)} must be 1 or more, shift and memory_dim 0 or more; got {counts}, {self.shift}, "
                f"{self.memory_dim}."
            )
        if not 0 < self.max_false_positive_rate < 1:
            raise ConfigError(f"max_false_positive_rate must be between 0 and 1, got {self.max_false_positive_rate}.")
        Debounce(*self.debounce)
        if not 0 <= self.seed < MOST_RUNS:
            raise ConfigError(f"seed must be 0 to {MOST_RUNS - 1}, got {self.seed}.")

    @property
    def folder(self) -> Path:
        if self.out:
            return Path(self.out)
        about = self.task.replace(":", ".") or self.data[0].resolve().parent.name
        return Path("runs") / f"reward-{about}-seed{self.seed}"
