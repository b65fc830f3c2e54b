"""The real programs of benchmarks/, at tiny sizes: what ``pld bench`` asks of them is what they give."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from pld_core.cli import bench

sys.path.append(str(bench.benchmarks_folder()))
import libero_study

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


@pytest.mark.slow
def test_the_papers_tables_grow_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study of `pld bench libero` at tiny sizes, on tasks that are quick."""
    monkeypatch.setattr(libero_study, "BASELINES", {"rlpd": {}})
    monkeypatch.setattr(libero_study, "SOURCES", ("oracle",))
    monkeypatch.setattr(libero_study, "FEW", (1,))
    tasks, suite = ["peg_insertion"], ["peg_insertion", "cube_pickup"]
    study = libero_study.Study(tmp_path, "debug", tasks, suite, [0], {"learn.steps": 100, "evaluate.episodes": 2})
    study.baselines()
    study.together()
    assert study.report() == {"specialists": [], "suite": [], "curves": {}}, "nothing to start from"
    for part in libero_study.PARTS:
        getattr(study, part)()
    found = study.report()
    assert json.loads((tmp_path / "libero.json").read_text()) == found
    assert [(row["task"], row["seed"]) for row in found["specialists"]] == [("peg_insertion", 0)]
    policies = ("base", "together", "together-oracle", "together-1")
    rows = {(row["policy"], row["task"]): row for row in found["suite"]}
    assert set(rows) == {(policy, task) for policy in policies for task in suite}
    assert [rows["together", task]["seen"] for task in suite] == [True, False]
    assert set(found["curves"]["peg_insertion"]) == {"pld", "rlpd"}
    few = imitated(tmp_path / "together-1"), imitated(tmp_path / "together")
    assert few == (1, 2)
    table = (tmp_path / "libero.md").read_text()
    assert "| cube_pickup | no |" in table
    assert "| all trained | |" in table
    # Everything is there: nothing runs again, and what a kill left out would.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.vla")}
    again = libero_study.Study(
        tmp_path, "debug", tasks, suite, [0], {"learn.steps": 100, "evaluate.episodes": 2}, minutes=0
    )
    for part in libero_study.PARTS:
        getattr(again, part)()
    assert again.report() == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.vla")} == before


def imitated(run: Path) -> int:
    """Episodes that a run's VLA* was made from."""
    return json.loads((run / "stages" / "distill.json").read_text())["episodes"]
