"""Can the tool-to-target error be read from the pictures? Ask before any reinforcement learning.

    python -m pld_sim.tabletop.decodability --task peg_insertion

renders frames near the goal from a disturbed oracle, trains a small regression on them and prints the
median absolute error per component on episodes it has not seen.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from pld_sim.tabletop.tasks import TASKS, make_environments

CHANNELS, KEYPOINTS, HIDDEN = 32, 32, 256
NEAR_CM, NEAR_Z_CM, CLOSE_CM = 2.0, 6.5, 1.0
BURST_TICKS, BURST_SCALE, BURST_CHANCE = 5, 0.6, 0.10
LABEL_SCALE = np.array([1.0, 1.0, 2.0, 0.15], np.float32)  # cm, cm, cm, rad


def collect(task: str, frames: int, seed: int) -> dict[str, np.ndarray]:
    """Frames near the goal: images uint8 [N, 2, 64, 64, 3], proprio [N, P], label [N, 4], episode [N]."""
    env = make_environments(task, 1)[0]
    oracle, rng = env.oracle(), np.random.default_rng(seed)
    images, proprio, labels, episodes = [], [], [], []
    episode = 0
    while len(labels) < frames:
        step = env.reset(int(rng.integers(2**31)))
        episode += 1
        burst, left = np.zeros(7), 0
        while not step.last and len(labels) < frames:
            if left == 0 and rng.random() < BURST_CHANCE:
                burst, left = np.append(rng.uniform(-1, 1, 6), 0.0), BURST_TICKS
            action = oracle.act() + (BURST_SCALE * burst if left else 0.0)
            left = max(left - 1, 0)
            step = env.step(np.clip(action, -1, 1).astype(np.float32))
            error = env.grounding()
            if np.abs(error[:2]).max() < NEAR_CM and abs(error[2]) < NEAR_Z_CM:
                images.append(np.stack([step.observation.images[name] for name in ("wrist", "front")]))
                proprio.append(step.observation.proprio)
                labels.append([*error[:3], np.arctan2(error[3], error[4])])
                episodes.append(episode)
    env.close()
    return {
        "images": np.stack(images),
        "proprio": np.stack(proprio),
        "label": np.array(labels, np.float32),
        "episode": np.array(episodes),
    }


def init(key: jax.Array, proprio: int) -> dict[str, jax.Array]:
    sizes = {
        "patch": (2, 48, CHANNELS),
        "conv1": (2, 9 * CHANNELS, CHANNELS),
        "conv2": (2, 9 * CHANNELS, KEYPOINTS),
        "dense1": (2 * KEYPOINTS * 2 + proprio, HIDDEN),
        "dense2": (HIDDEN, HIDDEN),
        "out": (HIDDEN, 4),
    }
    keys = jax.random.split(key, len(sizes))
    return {name: jax.random.normal(k, shape) / np.sqrt(shape[-2]) for k, (name, shape) in zip(keys, sizes.items())} | {
        f"{name}_bias": jnp.zeros((*shape[:-2], 1, shape[-1])) for name, shape in sizes.items()
    }


def predict(params: dict[str, jax.Array], images: jax.Array, proprio: jax.Array) -> jax.Array:
    """Scaled labels [N, 4]. Convolutions are matrix products, which XLA runs far faster on a CPU."""
    count = images.shape[0]
    x = images.astype(jnp.float32) / 127.5 - 1.0
    x = x.reshape(count, 2, 16, 4, 16, 4, 3).transpose(1, 0, 2, 4, 3, 5, 6).reshape(2, -1, 48)
    x = jax.nn.relu(x @ params["patch"] + params["patch_bias"])
    for name in ("conv1", "conv2"):
        grid = jnp.pad(x.reshape(2, count, 16, 16, -1), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
        shifts = [grid[:, :, i : i + 16, j : j + 16] for i in range(3) for j in range(3)]
        x = jnp.concatenate(shifts, -1).reshape(2, count * 256, -1) @ params[name] + params[f"{name}_bias"]
        x = jax.nn.relu(x) if name == "conv1" else x
    weights = jax.nn.softmax(x.reshape(2, count, 256, KEYPOINTS), axis=2)
    ticks = jnp.linspace(-1, 1, 16)
    position = jnp.stack([jnp.repeat(ticks, 16), jnp.tile(ticks, 16)], -1)
    points = jnp.einsum("cnpk,pd->nckd", weights, position).reshape(count, -1)
    x = jnp.concatenate([4 * points, proprio], -1)
    x = jax.nn.relu(x @ params["dense1"] + params["dense1_bias"])
    x = jax.nn.relu(x @ params["dense2"] + params["dense2_bias"])
    return x @ params["out"] + params["out_bias"]


def loss(params: dict[str, jax.Array], images: jax.Array, proprio: jax.Array, label: jax.Array) -> jax.Array:
    error = jnp.abs(predict(params, images, proprio) - label)
    return jnp.where(error < 0.02, error**2 / 0.04, error - 0.01).mean()


@partial(jax.jit, donate_argnums=(0, 1, 2))
def update(params, first, second, step, rate, batch):
    """One Adam step."""
    value, gradient = jax.value_and_grad(loss)(params, *batch)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
    params = jax.tree.map(
        lambda p, m, v: p - rate * (m / (1 - 0.9**step)) / (jnp.sqrt(v / (1 - 0.999**step)) + 1e-8),
        params, first, second,
    )  # fmt: skip
    return params, first, second, value


def fit(data: dict[str, np.ndarray], steps: int, batch: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Train on 85 % of the episodes; absolute errors and labels [M, 4] (cm, cm, cm, rad) of the rest."""
    centre, spread = data["proprio"].mean(0), data["proprio"].std(0) + 1e-6
    proprio = ((data["proprio"] - centre) / spread).astype(np.float32)
    held_out = data["episode"] > np.quantile(data["episode"], 0.85)
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    rng = np.random.default_rng(seed)
    params = init(jax.random.key(seed), proprio.shape[1])
    first, second = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
    for step in range(1, steps + 1):
        rate = 2e-3 * min(1.0, step / 50) * 0.5 * (1 + np.cos(np.pi * step / steps))
        rows = rng.choice(train, batch)
        chunk = (data["images"][rows], proprio[rows], data["label"][rows] / LABEL_SCALE)
        params, first, second, value = update(params, first, second, float(step), float(rate), chunk)
        if step % 200 == 0:
            print(f"step {step}: loss {float(value):.4f}", flush=True)
    answers = [
        np.asarray(predict(params, jnp.asarray(data["images"][r]), jnp.asarray(proprio[r])))
        for r in np.array_split(test, 10)
    ]
    return np.abs(np.concatenate(answers) * LABEL_SCALE - data["label"][test]), data["label"][test]


def main() -> None:
    parser = argparse.ArgumentParser(description="Can the tool-to-target error be read from the pictures?")
    parser.add_argument("--task", choices=sorted(TASKS), default="peg_insertion")
    parser.add_argument("--frames", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    data = collect(options.task, options.frames, options.seed)
    print(f"{options.frames} frames in {time.perf_counter() - start:.0f} s", flush=True)
    error, label = fit(data, options.steps, seed=options.seed)
    close = np.abs(label[:, :2]).max(1) < CLOSE_CM
    for name, rows in (("near the goal", ~np.zeros_like(close)), (f"within {CLOSE_CM} cm", close)):
        for words, share in (("median", 0.5), ("90th percentile", 0.9)):
            x, y, z, yaw = np.quantile(error[rows], share, axis=0) * [10, 10, 10, 1]
            print(f"{options.task} {name}, {words} |error|: x {x:.2f} y {y:.2f} z {z:.2f} mm, yaw {yaw:.4f} rad")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
