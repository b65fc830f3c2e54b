"""A program: one episode of the LIBERO package as it comes, for comparison.

``python libero_package.py SUITE INDEX SEED ACTIONS.npy OUT.npz [plain|blind]`` executes actions [T, 7] (the package's
gripper sign); ``plain`` draws no reflections, ``blind`` nothing at all.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("MUJOCO_GL", "egl")
import mujoco
import numpy as np
from libero.libero import benchmark
from libero.libero.envs.env_wrapper import ControlEnv
from robosuite.utils.transform_utils import quat2axisangle


def main(name: str, index: str, seed: str, actions: str, out: str, *options: str) -> None:
    suite, number = benchmark.get_benchmark(name)(), int(index)
    blind = "blind" in options
    env = ControlEnv(suite.get_task_bddl_file_path(number), use_camera_obs=not blind, has_offscreen_renderer=not blind)
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
    cameras = {} if blind else {"agentview": "agentview_image", "wrist": "robot0_eye_in_hand_image"}
    images = {name: np.stack([s[key][::-1] for s in seens]) for name, key in cameras.items()}
    np.savez(out, proprio=np.stack(proprio).astype(np.float32), success=np.array(successes), **images)


if __name__ == "__main__":
    main(*sys.argv[1:])
