"""How often the scripted experts fulfil LIBERO's tasks from the official start states.

    python benchmarks/libero_oracles.py libero_object
    python benchmarks/libero_oracles.py libero_spatial/3 --states 10 --bursts

State k is ``reset(k)``; without images. ``--bursts`` pushes the expert off its path as demonstrations do. The mean
length is that of the successes, in ticks of 50 ms. Tasks whose goal has no script are listed as such. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from pld_core.errors import ContractError
from pld_core.stages.demonstrate import BurstNoise, demonstration
from pld_sim.libero import make_environments
from pld_sim.libero.suites import SUITES


def measure(task: str, states: int, noise: BurstNoise | None) -> dict[str, Any]:
    """Success, mean length and the states that failed, of one task."""
    (environment,) = make_environments(task)
    environment.renders_cameras = False
    try:
        episodes = [demonstration(environment, seed, noise) for seed in range(states)]
    except ContractError as error:
        return {"task": task, "instruction": environment.instruction, "not_covered": str(error)}
    finally:
        environment.close()
    good = [len(episode) for episode in episodes if episode.success]
    return {
        "task": task,
        "instruction": environment.instruction,
        "successes": len(good),
        "states": states,
        "mean_ticks": round(float(np.mean(good)), 1) if good else None,
        "longest": max(good, default=None),
        "failed": [seed for seed, episode in enumerate(episodes) if not episode.success],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("tasks", nargs="+", help="suites or tasks: libero_object, libero_goal/3")
    parser.add_argument("--states", type=int, default=50)
    parser.add_argument("--bursts", action="store_true", help="with the bursts of random actions of demonstrations")
    parser.add_argument("--json", action="store_true", help="print the JSON object and nothing else")
    options = parser.parse_args()
    suites = {suite: [f"{suite}/{number}" for number in range(SUITES[suite].tasks)] for suite in SUITES}
    results = []
    for task in (task for given in options.tasks for task in suites.get(given, [given])):
        result = measure(task, options.states, BurstNoise() if options.bursts else None)
        results.append(result)
        if not options.json:
            told = result.get("not_covered") or "{successes}/{states}, {mean_ticks} ticks".format(**result)
            print(f"{task:18s} {told:24s} {result['instruction']}", flush=True)
    print(json.dumps({"bursts": options.bursts, "results": results}))


if __name__ == "__main__":
    main()
