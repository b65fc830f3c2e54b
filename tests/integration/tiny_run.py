"""A run of the whole loop in seconds, with a CompactVLA as base: the point-reach toy, no pictures."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from pld_core.stages.demonstrate import demonstrations
from pld_core.stages.pipeline import Pipeline
from pld_core.vla import CompactVLA, CompactVLAConfig
from pld_sim.point_reach import PointReach

SETTINGS: dict[str, Any] = {
    "lanes": 4,
    "learn.steps": 300,
    "learn.eval_every": 0,
    "learn.hidden": (16, 16),
    "learn.batch_size": 16,
    "learn.critic_warmup_steps": 50,
    "learn.updates_per_step": 0.5,
    "learn.warmup_episodes": 4,
    "harvest.successes": 4,
    "probe.episodes": 4,
    "probe.alpha": 0.1,
    "distill.steps": 20,
    "evaluate.episodes": 8,
    "evaluate.drift_states": 16,
    "evaluate.drift_samples": 32,
    "report.videos": False,
}


class FarReach(PointReach):
    """Another task of the same observations and actions."""

    instruction = "reach the far goal"
    task = "far_reach"


class SeenReach(PointReach):
    """Another task, with a camera that the base has not."""

    def __init__(self) -> None:
        super().__init__(camera=True)


def base(path: Path, steps: int = 400) -> CompactVLA:
    """Saved at ``path``: a policy that learnt from a few demonstrations of the oracle."""
    environment = PointReach()
    config = CompactVLAConfig(horizon=3, width=32, grounding_width=16)
    policy = CompactVLA.create(environment.observation_spec, 3, config, seed=1)
    shown = [episode for _, episode in islice(demonstrations([environment], 0), 12)]
    policy = policy.sft(shown, mode="full", steps=steps, batch_size=64, learning_rate=3e-3, seed=0)
    policy.save(path)
    return policy


def pipeline(name: str, base_path: Path, **settings: Any) -> Pipeline:
    """In the folder ``runs`` of the working folder."""
    return Pipeline("point_reach", f"compact:{base_path}", preset="custom", name=name, **{**SETTINGS, **settings})
