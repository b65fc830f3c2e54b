"""A whole run on the point-reach toy, as a program of its own so that a test can kill it."""

from __future__ import annotations

import sys

from pld_core.api import Pipeline
from pld_sim.point_reach import biased_base, point_reach

SETTINGS = {
    "learn.steps": 2500,
    "learn.eval_every": 500,
    "learn.eval_episodes": 20,
    "learn.hidden": (32, 32),
    "learn.batch_size": 64,
    "learn.calql_steps": 50,
    "learn.xi_ramp_steps": 300,
    "learn.critic_warmup_steps": 500,
    "learn.checkpoint_seconds": 0.001,
    "harvest.successes": 20,
    "probe.episodes": 10,
    "evaluate.episodes": 20,
    "report.videos": False,
}


def pipeline(name: str, **settings: object) -> Pipeline:
    return Pipeline(point_reach, biased_base, preset="custom", name=name, **{**SETTINGS, **settings})


if __name__ == "__main__":
    pipeline(sys.argv[1]).train()
