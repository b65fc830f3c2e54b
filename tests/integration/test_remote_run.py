"""The whole loop with a base policy that another process serves: the same as with that policy in this process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toy_run import SETTINGS, pipeline

from pld_core.api import Pipeline
from pld_core.data.episode_store import EpisodeStore
from pld_sim.point_reach import point_reach
from tests.contract.served import Served

SHORT = {"learn.steps": 500, "learn.updates_per_step": 0.2}


@pytest.mark.slow
def test_a_run_with_a_remote_base_is_the_run_with_that_base(tmp_path: Path) -> None:
    pipeline("here", **SHORT).train()
    with Served("--policy", "pld_sim.point_reach:biased_base") as served:
        Pipeline(point_reach, served.url, preset="custom", name="remote", **{**SETTINGS, **SHORT}).train()
    outcomes = [json.loads(Path(f"runs/{name}/outcomes.json").read_text()) for name in ("here", "remote")]
    assert outcomes[0] == outcomes[1]
    stores = [EpisodeStore(Path(f"runs/{name}/probe"), read_only=True) for name in ("here", "remote")]
    for here, remote in zip(*stores, strict=True):
        np.testing.assert_array_equal(here.action, remote.action)
        np.testing.assert_array_equal(here.base_action, remote.base_action)
    stage = json.loads(Path("runs/remote/stages/learn.json").read_text())
    assert 0 < stage["policy_server_p50_ms"] <= stage["policy_total_p50_ms"] <= stage["policy_total_p99_ms"]
    assert "policy total p50 ms" in Path("runs/remote/report.html").read_text()
    assert "policy_total_p50_ms" not in json.loads(Path("runs/here/stages/learn.json").read_text())
