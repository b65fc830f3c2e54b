"""How fast the learner learns: updates per second, replay bytes, seconds to the first update.

``python benchmarks/learner_speed.py`` prints a few lines for people and one JSON line at the end.
Sizes are those of the tabletop tasks: 280 inputs with features, two 64 px cameras with resnet10.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_ROOT = Path(__file__).resolve().parents[1]
_ACTION_DIM = 7
_STATE_DIM = {"features": 273, "resnet10": 80}  # with the base action 280; proprioception and the base's plan
_CAMERAS = {"wrist": (64, 64, 3), "front": (64, 64, 3)}
_BATCH: dict[str, int] = {"features": 256, "resnet10": 32}
_SHAPE: dict[str, tuple[int, int]] = {"features": (50, 4), "resnet10": (2, 2)}  # critic updates a call, timed calls


def random_batches(encoder: str, updates: int, size: int):
    """``[K, B, ...]`` transitions of noise: speed does not depend on the values."""
    from pld_core.data.replay import Batch

    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.uniform(-1, 1, (updates, size, *shape)).astype(np.float32)

    def frames() -> dict[str, np.ndarray]:
        cameras = _CAMERAS if encoder == "resnet10" else {}
        return {n: rng.integers(0, 256, (updates, size, *s), dtype=np.uint8) for n, s in cameras.items()}

    dim = _STATE_DIM[encoder]
    return Batch(
        state=draw(dim),
        base_action=draw(_ACTION_DIM),
        action=draw(_ACTION_DIM),
        reward=np.zeros((updates, size), np.float32),
        discount=np.full((updates, size), 0.99, np.float32),
        next_state=draw(dim),
        next_base_action=draw(_ACTION_DIM),
        mc_return=np.zeros((updates, size), np.float32),
        images=frames(),
        next_images=frames(),
    )


def make_learner(encoder: str):
    """The learner with default settings and the benchmark's sizes."""
    from pld_core.rl.config import LearnerConfig
    from pld_core.rl.learner import Learner

    config = LearnerConfig(encoder=encoder, batch_size=_BATCH[encoder])  # type: ignore[arg-type]
    return Learner(config, _STATE_DIM[encoder], _ACTION_DIM, _CAMERAS if encoder == "resnet10" else {})


def critic_updates_per_second(encoder: str = "features", kind: str = "update", repeats: int = 3) -> float:
    """Best of ``repeats``: other processes can only slow it down. The actor learns at every second one."""
    import jax

    updates, calls = _SHAPE[encoder] if kind == "update" else (2, 2)
    learner = make_learner(encoder)
    state, batches = learner.init(0), random_batches(encoder, updates, _BATCH[encoder])
    step = getattr(learner, kind)
    state, _ = step(state, batches, 0.5)
    jax.block_until_ready(state)
    best = 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(calls):
            state, _ = step(state, batches, 0.5)
        jax.block_until_ready(state)
        best = max(best, calls * updates / (time.perf_counter() - began))
    return best


def acts_per_second(lanes: int = 1, calls: int = 300) -> float:
    """Batched answers of the actor, numpy to numpy: what a control tick waits for."""
    from pld_core.rl.actor import LearnerActor

    learner = make_learner("features")
    actor = LearnerActor(learner, learner.actor_params(learner.init(0)))
    state = np.zeros((lanes, _STATE_DIM["features"]), np.float32)
    base, seeds = np.zeros((lanes, _ACTION_DIM), np.float32), np.arange(lanes, dtype=np.uint32)
    actor.act(state, base, {}, seeds)
    began = time.perf_counter()
    for _ in range(calls):
        actor.act(state, base, {}, seeds)
    return calls / (time.perf_counter() - began)


def replay_bytes(encoder: str) -> int:
    """Bytes of replay per transition."""
    from pld_core.data.replay import ReplayBuffer

    cameras = _CAMERAS if encoder == "resnet10" else {}
    return ReplayBuffer(16, _STATE_DIM[encoder], _ACTION_DIM, cameras).bytes_per_transition


def first_update_seconds(flags: Sequence[str] = ()) -> tuple[float, float]:
    """From the start of a fresh process to its first update: without and with a compilation cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        times = []
        for _ in range(2):
            began = time.perf_counter()
            subprocess.run([sys.executable, __file__, "--first-update", *flags], env=environment, check=True)
            times.append(time.perf_counter() - began)
    return times[0], times[1]


def _first_update() -> None:
    import jax

    learner = make_learner("features")
    jax.block_until_ready(
        learner.update(learner.init(0), random_batches("features", _SHAPE["features"][0], _BATCH["features"]), 0.5)
    )


def be_quick() -> None:
    """Tiny sizes. Two updates stay: the actor learns at every second one."""
    _BATCH.update(features=2, resnet10=2)
    _SHAPE.update(features=(2, 1), resnet10=(2, 1))


def measure(quick: bool = False) -> dict[str, float]:
    """What ``pld bench`` asks for and, unless ``quick``, two more."""
    cold, cached = first_update_seconds(["--quick"] if quick else [])
    repeats = 1 if quick else 3
    asked = {
        "critic_updates_per_s_features": round(critic_updates_per_second("features", repeats=repeats), 1),
        "critic_updates_per_s_resnet10": round(critic_updates_per_second("resnet10", repeats=repeats), 2),
        "replay_bytes_features": replay_bytes("features"),
        "replay_bytes_resnet10": replay_bytes("resnet10"),
        "first_update_s_cold": round(cold, 1),
        "first_update_s_cached": round(cached, 1),
    }
    if quick:
        return asked
    return asked | {
        "calql_updates_per_s_features": round(critic_updates_per_second("features", "calql_update"), 1),
        "acts_per_s_features": round(acts_per_second(), 0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the residual learner.")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works, measures nothing")
    parser.add_argument("--first-update", action="store_true", help="make one update and leave (used internally)")
    options = parser.parse_args()
    if options.quick:
        be_quick()
    if options.first_update:
        _first_update()
        return
    result = measure(options.quick)
    if not options.json:
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; batch {_BATCH}, best of three")
        for name, value in result.items():
            print(f"{name:32s} {value:>12,}")
    print(json.dumps(result))


if __name__ == "__main__":
    sys.path.insert(0, str(_ROOT))
    main()
