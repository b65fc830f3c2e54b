"""How fast CompactVLA infers and trains. The last line is JSON.

    taskset -c 0 python benchmarks/vla_speed.py --training

``vla_infer_ms`` is one observation with the flow head, median by the clock. ``cpu``
figures count processor time of all threads, so they hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from pld_core.types import Episode, EpisodeSpec, Observation, ObservationSpec
from pld_core.vla import CompactVLA, CompactVLAConfig, GroundingFrames
from pld_core.vla.sft import Mode

SPEC = ObservationSpec({"wrist": (64, 64, 3), "front": (64, 64, 3)}, proprio_dim=13)
REPEATS = 30
STEPS: dict[Mode, int] = {"full": 24, "lora": 24, "head": 200}
FIRST_STEPS: dict[Mode, int] = {"full": 4, "lora": 4, "head": 20}  # not counted: compilation
BATCH = 64


def observation(index: int) -> Observation:
    rng = np.random.default_rng(index)
    images = {name: rng.integers(0, 256, size, dtype=np.uint8) for name, size in SPEC.cameras.items()}
    return Observation(images, rng.normal(size=SPEC.proprio_dim).astype(np.float32), "insert the peg into the socket")


def episode(index: int, ticks: int = 30) -> Episode:
    rng = np.random.default_rng(index)
    return Episode(
        spec=EpisodeSpec("benchmark", index),
        instruction="insert the peg into the socket",
        proprio=rng.normal(size=(ticks + 1, SPEC.proprio_dim)).astype(np.float32),
        state=np.zeros((ticks + 1, 0), np.float32),
        images={n: rng.integers(0, 256, (ticks + 1, *size), dtype=np.uint8) for n, size in SPEC.cameras.items()},
        base_action=np.zeros((ticks + 1, 7), np.float32),
        residual=np.zeros((ticks, 7), np.float32),
        action=rng.uniform(-1, 1, (ticks, 7)).astype(np.float32),
        reward=np.zeros(ticks, np.float32),
        source=np.zeros(ticks, np.uint8),
        intervention=np.zeros(ticks, bool),
        terminated=True,
        truncated=False,
        success=True,
    )


def inference(policy: CompactVLA, count: int, repeats: int = REPEATS) -> dict[str, float]:
    """Milliseconds per call for a batch of ``count``: best and median by the clock, mean of processor time."""
    batch = [observation(i) for i in range(count)]
    policy.infer(batch)
    walls, cpu = [], time.process_time()
    for _ in range(repeats):
        start = time.perf_counter()
        policy.infer(batch)
        walls.append(1e3 * (time.perf_counter() - start))
    cpu = 1e3 * (time.process_time() - cpu) / repeats
    return {"best_ms": min(walls), "median_ms": float(np.median(walls)), "cpu_ms": cpu}


def training(run: Callable[..., object], skip: int) -> dict[str, float]:
    """Steps per second after the first ``skip``, by the clock and by processor time."""
    marks: list[tuple[int, float, float]] = []
    run(progress=lambda step, loss: marks.append((step, time.perf_counter(), time.process_time())))
    marks = [mark for mark in marks if mark[0] >= skip]
    (first, wall0, cpu0), (last, wall1, cpu1) = marks[0], marks[-1]
    return {"steps_per_s": (last - first) / (wall1 - wall0), "steps_per_cpu_s": (last - first) / (cpu1 - cpu0)}


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 2) for key, value in values.items()}


def inference_report(policies: dict[str, CompactVLA], repeats: int = REPEATS) -> dict[str, object]:
    """Every head, one observation and ten."""
    report: dict[str, object] = {}
    for head, policy in policies.items():
        report[f"{head}_parameters"] = policy.parameters
        for count in (1, 10):
            values = inference(policy, count, repeats)
            report[f"{head}_infer_{count}"] = rounded(values)
            if (head, count) == ("flow", 1):
                report["vla_infer_ms"] = round(values["median_ms"], 3)
    return report


def training_report(policies: dict[str, CompactVLA]) -> dict[str, object]:
    """Every head and mode of fine-tuning, and the pretraining of the encoder."""
    episodes = [episode(i) for i in range(12)]
    report: dict[str, object] = {}
    for head, policy in policies.items():
        for mode, steps in STEPS.items():
            tune = partial(policy.sft, episodes, mode=mode, steps=steps, batch_size=BATCH)
            report[f"{head}_sft_{mode}"] = rounded(training(tune, FIRST_STEPS[mode]))
    frames = GroundingFrames.gather([observation(i) for i in range(300)], [np.zeros(5, np.float32)] * 300)
    ground = partial(CompactVLA.create(SPEC).pretrain_grounding, frames, steps=24, batch_size=BATCH)
    return report | {"grounding": rounded(training(ground, 4))}


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast CompactVLA infers and, with --training, trains.")
    parser.add_argument("--json", action="store_true", help="print the JSON object and nothing else")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works, measures nothing")
    parser.add_argument("--training", action="store_true", help="measure fine-tuning and pretraining too (minutes)")
    options = parser.parse_args()
    heads = ("flow",) if options.quick else ("flow", "tokens")
    policies = {head: CompactVLA.create(SPEC, 7, CompactVLAConfig(head=head)) for head in heads}
    report = inference_report(policies, 2 if options.quick else REPEATS)
    if options.training:
        report |= training_report(policies)
    if not options.json:
        for name, values in report.items():
            print(name, values)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
