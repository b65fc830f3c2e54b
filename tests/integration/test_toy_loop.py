"""The whole loop in a toy world: the specialist is clearly better than the base it corrects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_run import pipeline

from pld_core.api import Pipeline
from pld_core.errors import ConfigError, StageError
from pld_core.rl.presets import algorithm, algorithm_names
from pld_sim.point_reach import point_reach


@pytest.mark.slow
def test_learning_improves_success_by_a_clear_margin(tmp_path: Path) -> None:
    pipeline("toy", **{
        "learn.steps": 8000, "learn.hidden": (128, 128), "learn.batch_size": 128, "learn.gamma": 0.95,
        "learn.n_step": 3, "learn.initial_temperature": 0.005, "learn.target_entropy": -3.0,
        "learn.eval_every": 1000, "learn.checkpoint_seconds": 600.0, "evaluate.episodes": 100,
    }).train()  # fmt: skip
    outcome = json.loads(Path("runs/toy/eval.json").read_text())
    assert 0.2 <= outcome["base"]["rate"] <= 0.6
    assert outcome["specialist"]["ci95"][0] > outcome["base"]["ci95"][1] + 0.1
    assert Path("runs/latest/report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", algorithm_names())
def test_every_algorithm_learns_and_is_evaluated(method: str, tmp_path: Path) -> None:
    pipeline(method, **{"learn.algorithm": method, "learn.steps": 1500, "learn.updates_per_step": 0.2}).train()
    rows = [json.loads(line) for line in Path(f"runs/{method}/metrics.jsonl").read_text().splitlines()]
    warmed_up = any(row["stage"] == "calql" for row in rows)
    assert warmed_up == algorithm(method).calql_warmup
    assert max(row.get("updates", 0) for row in rows if row["stage"] == "learn") >= 100
    outcome = json.loads(Path(f"runs/{method}/eval.json").read_text())
    assert outcome["specialist"]["episodes"] == 20


def test_a_base_that_never_succeeds_is_named_as_the_cause(tmp_path: Path) -> None:
    still = Pipeline(point_reach, lambda seen: [0.0, 0.0, 1.0], preset="custom", **{"harvest.max_episodes": 40})
    with pytest.raises(StageError, match=r"succeeded in 0 of 40 episodes.*harvest.max_episodes"):
        still.harvest()


def test_a_stage_asks_for_the_one_before_it(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="run `pld harvest`"):
        pipeline("early").learn()


def test_other_settings_do_not_continue_a_run(tmp_path: Path) -> None:
    pipeline("same").harvest()
    with pytest.raises(ConfigError, match=r"learn.batch_size: was 64, now 128"):
        pipeline("same", **{"learn.batch_size": 128}).harvest()
