"""Environment steps per second of one core: ten lanes, both cameras, the shipped base policy in the loop.

    python benchmarks/env_speed.py --task peg_insertion --lanes 10

The process is bound to one core and its processor time counts, so the figure holds on a busy machine too.
Resets are included at the rate at which the base finishes episodes. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")


def measure(task: str, lanes: int, episodes: int) -> dict[str, Any]:
    """Run whole episodes of the base through a LocalRunner, as every stage does."""
    from pld_core import registry
    from pld_core.stages.runner import LocalRunner
    from pld_core.stages.workspace import shipped_base
    from pld_core.types import EpisodeSpec
    from pld_core.vla.compact_vla import CompactVLA

    policy = CompactVLA.load(shipped_base("flow"))
    environments = registry.load("tasks", task)(lanes)
    policy.infer([environments[0].reset(0).observation])  # compiles
    runner = LocalRunner(environments, policy, registry.load("rewards", "binary"))
    specs = [EpisodeSpec(task, seed, "evaluate", record_images=False) for seed in range(episodes)]
    wall, cpu = time.perf_counter(), time.process_time()
    steps = sum(len(episode) for episode in runner.run(specs))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    runner.close()
    return {
        "env_steps_per_s": round(steps / cpu, 1),
        "env_steps_per_wall_s": round(steps / wall, 1),
        "task": task,
        "lanes": lanes,
        "steps": steps,
    }


def use_one_core() -> None:
    """Before JAX and the software renderer start their threads; a no-op where the system cannot."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def main() -> None:
    parser = argparse.ArgumentParser(description="Environment steps per second of one core.")
    parser.add_argument("--json", action="store_true", help="print the JSON object and nothing else")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works, measures nothing")
    parser.add_argument("--task", default="peg_insertion")
    parser.add_argument("--lanes", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=40)
    options = parser.parse_args()
    use_one_core()
    lanes, episodes = (1, 1) if options.quick else (options.lanes, options.episodes)
    result = measure(options.task, lanes, episodes)
    if not options.json:
        print(f"{options.task}: {result['env_steps_per_s']} steps per second of one core, base policy included")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
