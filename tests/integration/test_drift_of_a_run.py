"""Drift and forgetting in a whole run: what is written, and what a resumed evaluation does."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_run

from pld_core.errors import ConfigError
from pld_core.stages.pipeline import Pipeline

pytestmark = pytest.mark.slow
FILES = ("drift.json", "forgetting.json", "eval.json")


def again(tiny: Path, folder: Path) -> tuple[Pipeline, Path]:
    """The same run in a copy of its folder, so that nothing of the others' is touched."""
    copy = Path(shutil.copytree(tiny, folder / "runs" / "tiny", symlinks=True))
    others = {"evaluate.other_tasks": ("tiny_run:FarReach",), "evaluate.other_episodes": 6}
    base = tiny.parents[1] / "base.vla"
    return tiny_run.pipeline("tiny", base, runs_dir=str(folder / "runs"), **others), copy


def test_what_a_run_leaves(tiny: Path) -> None:
    drift: dict[str, Any] = json.loads((tiny / "drift.json").read_text())
    assert (drift["states"], drift["samples"]) == (16, 32)
    moved = {(pair["from"], pair["to"]): pair for pair in drift["pairs"]}
    assert set(moved) == {("base", "specialist"), ("specialist", "distilled"), ("base", "distilled")}
    for pair in moved.values():
        assert pair["kl"]["mean"] > 0.0
        assert pair["difference"]["action"]["mean"] > 0.0
    (rates,) = json.loads((tiny / "forgetting.json").read_text())["tasks"].values()
    assert {name: rate["episodes"] for name, rate in rates.items()} == {"base": 6, "distilled": 6}
    page = (tiny / "report.html").read_text()
    assert "Drift of the actions" in page
    assert "tiny_run:FarReach" in page


def test_a_finished_evaluation_stays_as_it_is(tiny: Path, tmp_path: Path) -> None:
    pipeline, copy = again(tiny, tmp_path)
    before = {name: (copy / name).stat().st_mtime_ns for name in FILES}
    pipeline.evaluate()
    assert {name: (copy / name).stat().st_mtime_ns for name in FILES} == before


def test_an_interrupted_evaluation_does_what_is_missing(tiny: Path, tmp_path: Path) -> None:
    """Killed after base's turn in the other task: drift and that turn stay, VLA*'s comes out as without the kill."""
    pipeline, copy = again(tiny, tmp_path)
    (copy / "stages" / "eval.json").unlink()
    whole = json.loads((copy / "forgetting.json").read_text())
    rates = whole["tasks"]["tiny_run:FarReach"]
    part = {**rates["base"], "successes": -1}  # would not survive being done again
    found = {**whole, "tasks": {"tiny_run:FarReach": {"base": part}}}
    (copy / "forgetting.json").write_text(json.dumps(found))
    drift = (copy / "drift.json").stat().st_mtime_ns
    pipeline.evaluate()
    assert (copy / "drift.json").stat().st_mtime_ns == drift
    resumed = json.loads((copy / "forgetting.json").read_text())["tasks"]["tiny_run:FarReach"]
    assert resumed == {"base": part, "distilled": rates["distilled"]}
    assert (copy / "eval.json").read_text().count("successes") == 3


def test_drift_that_was_lost_comes_out_the_same(tiny: Path, tmp_path: Path) -> None:
    pipeline, copy = again(tiny, tmp_path)
    (copy / "stages" / "eval.json").unlink()
    wanted = (copy / "drift.json").read_text()
    (copy / "drift.json").unlink()
    pipeline.evaluate()
    assert (copy / "drift.json").read_text() == wanted


def test_another_star_stands_beside_the_runs_own_and_asks_the_base_nothing(tiny: Path, tmp_path: Path) -> None:
    pipeline, copy = again(tiny, tmp_path)
    before = {name: json.loads((copy / name).read_text()) for name in FILES}
    name = "pld_sim.point_reach:biased_base"
    pipeline.evaluate_star(name)
    found = {name: json.loads((copy / name).read_text()) for name in FILES}
    assert found["drift.json"] == before["drift.json"]
    assert found["eval.json"].pop("others").keys() == {name}
    assert found["eval.json"] == before["eval.json"]
    rates = found["forgetting.json"]["tasks"]["tiny_run:FarReach"]
    assert rates.pop(name)["episodes"] == 6
    assert rates == before["forgetting.json"]["tasks"]["tiny_run:FarReach"]
    assert found["forgetting.json"]["policies"].keys() == {"base", "distilled", name}
    assert name in (copy / "report.html").read_text()


def test_a_task_that_the_base_cannot_see_is_refused_before_anything_is_learnt(tiny: Path, tmp_path: Path) -> None:
    base = tiny.parents[1] / "base.vla"
    with pytest.raises(ConfigError, match=r"'tiny_run:SeenReach'.*cannot act: cameras .*top.* instead of \{\}"):
        tiny_run.pipeline("blind", base, **{"evaluate.other_tasks": ("tiny_run:SeenReach",)}).train()
    assert not list(Path("runs/blind/stages").glob("*.json"))


def test_too_few_samples_are_refused_before_anything_is_evaluated(tiny: Path, tmp_path: Path) -> None:
    pipeline, copy = again(tiny, tmp_path)
    (copy / "stages" / "eval.json").unlink()
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("drift_samples: 32", "drift_samples: 4"))
    few = replace(pipeline.config, evaluate=replace(pipeline.config.evaluate, drift_samples=4))
    before = (copy / "eval.json").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="drift_samples is 4; actions of 3 entries need at least 6"):
        Pipeline.from_config(few).evaluate()
    assert (copy / "eval.json").stat().st_mtime_ns == before
