"""LIBERO as it comes against LIBERO here: environment steps per second with a policy in the loop, on this machine.

    python benchmarks/libero_speed.py --task libero_object/0

Whole episodes, resets included, of a CompactVLA with random weights (it never succeeds), in wall-clock time:
plain: the package's own environment, both cameras at every tick; every_tick: ours, the same; evaluation: ours with
pictures where the policy plans; training: those simplified, as the LIBERO presets practise. Run it on an idle
machine. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")
REPLAN_EVERY = 4  # of the presets
LANES = 2
SETTLE_TICKS = 10


def plain(task: str, ticks: int) -> dict[str, float]:
    """One episode of the package, its policy given what ours sees."""
    import numpy as np
    from libero.libero import benchmark
    from libero.libero.envs import OffScreenRenderEnv

    from pld_core.types import Observation
    from pld_sim.libero.suites import PROPRIO_NAMES, parse

    name, index = parse(task)
    suite = benchmark.get_benchmark(name)()
    environment = OffScreenRenderEnv(bddl_file_name=suite.get_task_bddl_file_path(index))
    policy = _policy()
    environment.reset()  # the first one compiles
    began = time.perf_counter()
    environment.reset()
    environment.set_init_state(suite.get_task_init_states(index)[0])
    for _ in range(SETTLE_TICKS):
        seen = environment.step([0.0] * 6 + [-1.0])[0]
    for tick in range(ticks):
        if tick % REPLAN_EVERY == 0:
            images = {"agentview": seen["agentview_image"], "wrist": seen["robot0_eye_in_hand_image"]}
            small = {key: np.ascontiguousarray(image[::-2, ::2]) for key, image in images.items()}
            chunk = policy.infer([Observation(small, np.zeros(len(PROPRIO_NAMES), np.float32), "go")])[0]
        action = chunk.actions[tick % REPLAN_EVERY].astype(np.float64)
        action[6] *= -1
        seen = environment.step(action)[0]
    return {"steps_per_s": ticks / (time.perf_counter() - began)}


def ours(task: str, episodes: int, ticks: int, **images: bool) -> dict[str, float]:
    from pld_core import registry
    from pld_core.stages.runner import LocalRunner
    from pld_core.types import EpisodeSpec

    environments = registry.load("tasks", task)(LANES)
    for environment in environments:
        environment.max_steps = ticks
    runner = LocalRunner(environments, _policy(), registry.load("rewards", "binary"), REPLAN_EVERY, **images)
    specs = [EpisodeSpec(task, seed, "learn", record_images=False) for seed in range(episodes)]
    list(runner.run(specs[:LANES]))  # everything is loaded and compiled
    began = time.perf_counter()
    steps = sum(len(episode) for episode in runner.run(specs))
    seconds = time.perf_counter() - began
    runner.close()
    return {"steps_per_s": steps / seconds}


def _policy() -> Any:
    """A CompactVLA for LIBERO's pictures, compiled."""
    import numpy as np

    from pld_core.types import Observation, ObservationSpec
    from pld_core.vla.compact_vla import CompactVLA
    from pld_sim.libero.suites import CAMERAS, PROPRIO_NAMES

    spec = ObservationSpec(dict.fromkeys(CAMERAS, (64, 64, 3)), len(PROPRIO_NAMES), PROPRIO_NAMES)
    policy = CompactVLA.create(spec)
    images = {name: np.zeros(size, np.uint8) for name, size in spec.cameras.items()}
    policy.infer([Observation(images, np.zeros(spec.proprio_dim, np.float32), "go")])
    return policy


def measure(part: str, task: str, ticks: int) -> float:
    """Each in a process of its own: the package and OpenGL leave much behind."""
    command = [sys.executable, __file__, "--task", task, "--ticks", str(ticks), "--part", part]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return round(json.loads(done.stdout.strip().splitlines()[-1])["steps_per_s"], 2)


PARTS = {
    "plain": plain,
    "every_tick": lambda task, ticks: ours(task, LANES, ticks, images_every_tick=True),
    "evaluation": lambda task, ticks: ours(task, 2 * LANES, ticks),
    "training": lambda task, ticks: ours(task, 2 * LANES, ticks, simplified_images=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="LIBERO's environment steps per second, the package's and ours.")
    parser.add_argument("--json", action="store_true", help="print the JSON object and nothing else")
    parser.add_argument("--quick", action="store_true", help="a few ticks: shows that it works, measures nothing")
    parser.add_argument("--task", default="libero_object/0")
    parser.add_argument("--ticks", type=int, default=280, help="of an episode")
    parser.add_argument("--part", choices=PARTS, help="only this")
    options = parser.parse_args()
    ticks = 8 if options.quick else options.ticks
    if options.part:
        print(json.dumps(PARTS[options.part](options.task, ticks)))
        return
    found = {f"steps_per_s_{part}": measure(part, options.task, ticks) for part in PARTS}
    if not options.json:
        for name, value in found.items():
            print(f"{name}: {value} ({value / found['steps_per_s_plain']:.2f}x)")
    print(json.dumps({**found, "task": options.task, "ticks": ticks, "lanes": LANES}))


if __name__ == "__main__":
    main()
