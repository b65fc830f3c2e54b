"""A program: one episode of the LIBERO package as it comes, for comparison.

``python libero_package.py SUITE INDEX SEED ACTIONS.npy OUT.npz [plain]`` executes actions [T, 7] (the package's
gripper sign); ``plain`` draws no reflections.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("MUJOCO_GL", "egl")
import mujoco
import numpy as np
from libero.libero import benchmark
from libero.libero.envs import OffScreenRenderEnv
from robosuite.utils.transform_utils import quat2axisangle


def main(name: str, index: str, seed: str, actions: str, out: str, *options: str) -> None:
    suite, number = benchmark.get_benchmark(name)(), int(index)
    env = OffScreenRenderEnv(bddl_file_name=suite.get_task_bddl_file_path(number))
    env.seed(int(seed))
    env.reset()
    if "plain" in options:
        env.sim._render_context_offscreen.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    states = suite.get_task_init_states(number)
    env.set_init_state(states[int(seed) % len(states)])
    for _ in range(10):
        seen = env.step([0.0] * 6 + [-1.0])[0]
    seens, successes = [seen], []
    for action in np.load(actions):
        seen, _, done, _ = env.step(action)
        seens.append(seen)
        successes.append(bool(done))
    proprio = [
        np.concatenate([s["robot0_eef_pos"], quat2axisangle(s["robot0_eef_quat"]), s["robot0_gripper_qpos"]])
        for s in seens
    ]
    np.savez(
        out,
        proprio=np.stack(proprio).astype(np.float32),
        agentview=np.stack([s["agentview_image"][::-1] for s in seens]),
        wrist=np.stack([s["robot0_eye_in_hand_image"][::-1] for s in seens]),
        success=np.array(successes),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
