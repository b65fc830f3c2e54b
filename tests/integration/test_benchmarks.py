"""The real programs of benchmarks/, at tiny sizes: what ``pld bench`` asks of them is what they give."""

from __future__ import annotations

import json
import math

import pytest

from pld_core.cli import bench

KEYS = {
    "env_steps_per_s", "vla_infer_ms", "tick_ms_p50", "tick_ms_p99", "critic_updates_per_s_features",
    "critic_updates_per_s_resnet10", "replay_bytes_features", "replay_bytes_resnet10", "first_update_s_cold",
    "first_update_s_cached",
}  # fmt: skip


@pytest.mark.slow
def test_the_real_benchmarks_deliver_every_key(capsys):
    folder = bench.benchmarks_folder() / "results"
    stored = sorted(folder.glob("*"))
    assert bench.run(["--json", "--quick"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert set(found) == KEYS | {"more", "git", "dirty", "machine"}
    assert all(math.isfinite(found[key]) and found[key] > 0 for key in KEYS)
    assert found["tick_ms_p50"] <= found["tick_ms_p99"]
    assert sorted(folder.glob("*")) == stored, "quick figures measure nothing and must not be kept"
