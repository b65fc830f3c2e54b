"""kill -9 at any moment, then the same command: the same weights as a run that was never killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pld_core.checkpoint import load_checkpoint

PROGRAM = Path(__file__).parent / "toy_run.py"


def start(folder: Path, name: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(PROGRAM), name], cwd=folder, stdout=subprocess.DEVNULL)


def flat(tree: dict, prefix: str = "") -> dict[str, np.ndarray]:
    leaves: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def rounds_done(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return metrics.read_text().count('"xi"') if metrics.exists() else 0


def wait_for(condition, process: subprocess.Popen) -> None:
    """Until the run has come as far as the test needs; a run that ends before is a failure."""
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_while_learning_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole = start(tmp_path, "whole")
    for kills in (2, 4):  # rounds after which it dies: early, and again late
        killed = start(tmp_path, "killed")
        wait_for(lambda kills=kills: rounds_done(tmp_path / "runs/killed") >= kills, killed)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    assert start(tmp_path, "killed").wait() == 0
    assert whole.wait() == 0

    one, _ = load_checkpoint(tmp_path / "runs/whole/checkpoints/specialist.ckpt")
    other, _ = load_checkpoint(tmp_path / "runs/killed/checkpoints/specialist.ckpt")
    learned = [load_checkpoint(tmp_path / f"runs/{n}/checkpoints/learn.ckpt") for n in ("whole", "killed")]
    for a, b in ((flat(one), flat(other)), (flat(learned[0][0]), flat(learned[1][0]))):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].tobytes() == b[key].tobytes(), key
    assert learned[0][1]["rng"] == learned[1][1]["rng"]
    evaluations = [json.loads((tmp_path / f"runs/{n}/outcomes.json").read_text()) for n in ("whole", "killed")]
    assert evaluations[0] == evaluations[1]
    steps = [
        json.loads(line)["env_steps"]
        for line in (tmp_path / "runs/killed/metrics.jsonl").read_text().splitlines()
        if '"xi"' in line
    ]
    assert steps == sorted(set(steps)), "a resumed run must not log a round twice"


def test_a_finished_stage_is_not_redone(tmp_path: Path) -> None:
    assert start(tmp_path, "run").wait() == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs/run/stages").glob("*.json")}
    assert start(tmp_path, "run").wait() == 0
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {p.stem for p in before if after[p] != before[p]} <= {"report"}
