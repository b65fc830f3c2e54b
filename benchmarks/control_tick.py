"""Controller tick for one robot: base inference, residual, limits; both encoders. ``--json`` prints JSON only.

Weights are fresh: time does not depend on their values. The picture and the proprioception are the
first observation of the default task.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")

import numpy as np

from pld_core import registry
from pld_core.control import ResidualController, SafetyLimits
from pld_core.interfaces import Environment
from pld_core.rl.actor import LearnerActor
from pld_core.rl.config import LearnerConfig
from pld_core.rl.learner import Learner
from pld_core.types import EpisodeSpec, Observation
from pld_core.vla.compact_vla import CompactVLA

WARM_UP = 30


def measure(
    ticks: int = 500, task: str = "peg_insertion", encoders: Sequence[str] = ("features", "resnet10")
) -> dict[str, float]:
    """Milliseconds per tick, median and 99th percentile; the names for ``features`` have no suffix."""
    environment = registry.load("tasks", task)(1)[0]
    observation = environment.reset(0).observation
    policy = CompactVLA.create(environment.observation_spec, environment.action_spec.dim)
    measured: dict[str, float] = {}
    for encoder in encoders:
        suffix = "" if encoder == "features" else f"_{encoder}"
        actor = _actor(environment, policy, encoder)
        times = _time(environment, policy, actor, observation, ticks)
        measured[f"tick_ms_p50{suffix}"] = round(float(np.percentile(times, 50)), 3)
        measured[f"tick_ms_p99{suffix}"] = round(float(np.percentile(times, 99)), 3)
    environment.close()
    return measured


def _actor(environment: Environment, policy: CompactVLA, encoder: Any) -> LearnerActor:
    spec = environment.observation_spec
    state_dim = spec.proprio_dim + policy.feature_dim + policy.action_horizon * environment.action_spec.dim
    learner = Learner(LearnerConfig(encoder=encoder), state_dim, environment.action_spec.dim, dict(spec.cameras))
    return LearnerActor(learner, learner.actor_params(learner.init(0)))


def _time(
    environment: Environment, policy: CompactVLA, actor: LearnerActor, observation: Observation, ticks: int
) -> np.ndarray:
    controller = ResidualController(policy, SafetyLimits(environment.action_spec))
    controller.reset(0, EpisodeSpec(environment.task, 0, "evaluate", t_base=0, xi=0.5))
    times = np.zeros(WARM_UP + ticks)
    for k in range(len(times)):
        began = time.perf_counter()
        controller.tick([0], [observation], actor)
        times[k] = 1e3 * (time.perf_counter() - began)
    return times[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the JSON object and nothing else")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works, measures nothing")
    parser.add_argument("--ticks", type=int, default=500)
    options = parser.parse_args()
    measured = measure(3, encoders=("features",)) if options.quick else measure(options.ticks)
    if not options.json:
        for name, value in measured.items():
            print(f"{name}: {value}", file=sys.stderr)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
