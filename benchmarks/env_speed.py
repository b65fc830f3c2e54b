"""Environment steps per second on one core, both cameras rendered, no policy.

    python benchmarks/env_speed.py --task peg_insertion --lanes 10

Processor time is what counts for a shared machine; wall time is printed too. Resets are included at the
rate at which the scripted expert finishes episodes. The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time

import numpy as np

from pld_sim.tabletop import TASKS, make_environments


def measure(task: str, lanes: int, steps: int) -> dict[str, float | int | str]:
    """Step all lanes in turn under their oracles; the oracles' own time is measured apart and subtracted."""
    environments = make_environments(task, lanes)
    oracles = [env.oracle() for env in environments]
    seeds = itertools.count(lanes)
    for seed, env in enumerate(environments):
        env.reset(seed)
    wall, cpu, thinking = time.perf_counter(), time.process_time(), 0.0
    done, resets = 0, 0
    while done < steps:
        for env, oracle in zip(environments, oracles, strict=True):
            start = time.process_time()
            action = oracle.act()
            thinking += time.process_time() - start
            step = env.step(action)
            done += 1
            if step.last:
                env.reset(next(seeds))
                resets += 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    images = np.stack(list(step.observation.images.values()))
    for env in environments:
        env.close()
    return {
        "task": task,
        "lanes": lanes,
        "steps": done,
        "resets": resets,
        "steps_per_cpu_second": round(done / (cpu - thinking), 1),
        "steps_per_wall_second": round(done / wall, 1),
        "image_std": round(float(images.std()), 1),
        "lp_num_threads": os.environ.get("LP_NUM_THREADS", ""),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Environment steps per second of one core.")
    parser.add_argument("--task", choices=sorted(TASKS), default="peg_insertion")
    parser.add_argument("--lanes", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    result = measure(options.task, options.lanes, options.steps)
    print(f"{result['task']}: {result['steps_per_cpu_second']} steps per second of one core")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
