"""The real programs of benchmarks/, at tiny sizes: what ``pld bench`` asks of them is what they give."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pld_core.api import Pipeline
from pld_core.cli import bench
from pld_core.errors import ConfigError, StageError

sys.path.append(str(bench.benchmarks_folder()))
import libero_study
from libero_study import Study

KEYS = {
    "env_steps_per_s", "vla_infer_ms", "tick_ms_p50", "tick_ms_p99", "critic_updates_per_s_features",
    "critic_updates_per_s_resnet10", "replay_bytes_features", "replay_bytes_resnet10", "first_update_s_cold",
    "first_update_s_cached", "requests_per_s_1_clients", "requests_per_s_16_clients", "through_remote_vla_ms_p50",
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


TRAINED, UNSEEN = ("peg_insertion", "cube_pickup"), "gpu_insertion"
POLICIES = ("base", "together", "together-oracle", "together-1")


def study(out: Path, tasks: Sequence[str] = TRAINED, **settings: Any) -> Study:
    """What `pld bench libero` does, at tiny sizes and on tasks that are quick."""
    tiny = {
        "learn.steps": 100,
        "evaluate.episodes": 1,
        "evaluate.drift_states": 0,
        "distill.imitate": "all",
        **settings,
    }
    return Study(out, "debug", tasks, (*TRAINED, UNSEEN), [0], tiny)


def carry_out(work: Study) -> dict[str, Any]:
    """All parts, the baselines with a smaller budget."""
    for part in libero_study.PARTS:
        getattr(study(work.out, **{"learn.steps": 60}) if part == "baselines" else work, part)()
    return work.report()


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"BASELINES": {"rlpd": {}}, "SOURCES": ("oracle",), "FEW": (1,)}.items():
            patch.setattr(libero_study, name, value)
        early = study(out)
        early.baselines()
        early.together()
        assert not any(early.report().values()), "nothing to start from"
        yield out, carry_out(early)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What runs, by name; nothing really does."""
    calls: list[str] = []
    for verb in libero_study.LAST_STAGE:
        monkeypatch.setattr(Pipeline, verb, lambda self, verb=verb: calls.append(f"{verb} {self.config.run_name}"))

    monkeypatch.setattr(libero_study, "evaluate", lambda *_: calls.append("evaluate"))
    return calls


@pytest.mark.slow
def test_the_papers_tables_grow_part_by_part(studied: tuple[Path, dict[str, Any]]) -> None:
    out, found = studied
    assert json.loads((out / "libero.json").read_text()) == found
    assert [(row["task"], row["seed"]) for row in found["specialists"]] == [(task, 0) for task in TRAINED]
    rows = {(row["policy"], row["task"]): row for row in found["suite"]}
    assert set(rows) == {(policy, task) for policy in POLICIES for task in (*TRAINED, UNSEEN)}
    assert [rows["together", task]["seen"] for task in (*TRAINED, UNSEEN)] == [True, True, False]
    assert {task: sorted(curves["methods"]) for task, curves in found["curves"].items()} == {
        t: ["pld", "rlpd"] for t in TRAINED
    }
    assert [curves["budget"] for curves in found["curves"].values()] == [60, 60], "the smaller one"
    # Two probes of each of two tasks, or the first of each.
    assert [imitated(out / name) for name in ("together", "together-oracle", "together-1")] == [4, 4, 2]
    table = (out / "libero.md").read_text()
    assert "| gpu_insertion | no |" in table
    assert "| all trained | |" in table


@pytest.mark.slow
def test_only_what_a_kill_left_out_runs_again(studied: tuple[Path, dict[str, Any]], begun: list[str]) -> None:
    out, found = studied
    assert carry_out(study(out, TRAINED[::-1])) == found
    assert begun == []
    few = study(out, TRAINED[:1]).report()
    assert few == found, "tables are of all that was found, whichever tasks a call is about"
    lost = out / "together" / "stages" / "distill.json"
    mark = lost.read_bytes()
    lost.unlink()
    try:
        study(out).together()
    finally:
        lost.write_bytes(mark)
    assert begun == ["distill together"]


@pytest.mark.slow
@pytest.mark.parametrize("other", [{"learn.steps": 200}, {"tasks": TRAINED[:1]}])
def test_results_of_another_study_are_not_taken_for_this_ones(
    studied: tuple[Path, dict[str, Any]], begun: list[str], other: dict[str, Any]
) -> None:
    out, _ = studied
    with pytest.raises(ConfigError, match="Give another --out"):
        carry_out(study(out, **other))
    assert begun == []


@pytest.mark.slow
def test_a_task_that_fails_does_not_end_the_study(tmp_path: Path, begun: list[str], monkeypatch: Any) -> None:
    def fails(self: Pipeline) -> None:
        raise StageError("the base never succeeds")

    monkeypatch.setattr(Pipeline, "train", fails)
    work = study(tmp_path)
    work.specialists()
    assert work.report()["failures"] == dict.fromkeys((f"{t}-seed0" for t in TRAINED), "the base never succeeds")


def test_an_evaluation_over_more_states_holds_one_over_fewer(tmp_path: Path) -> None:
    work = study(tmp_path, **{"evaluate.episodes": 2})
    folder = tmp_path / "evaluations" / "v"
    folder.mkdir(parents=True)
    for size in (3, 4, 1):
        outcomes = [True] * (size - 2) + [False, True]
        (folder / f"peg_insertion-{size}-replan{work.config.replan_every}.json").write_text(
            json.dumps({"outcomes": outcomes, "episodes": size})
        )
    found = work._evaluation("v", "peg_insertion")
    assert found is not None
    assert (found["successes"], found["episodes"], found["outcomes"]) == (1, 2, [True, False])
    assert work._evaluation("v", "cube_pickup") is None


def imitated(run: Path) -> int:
    """Episodes that a run's VLA* was made from."""
    return json.loads((run / "stages" / "distill.json").read_text())["episodes"]
