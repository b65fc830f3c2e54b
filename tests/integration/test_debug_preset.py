"""`pld train --preset debug`: every stage with the real simulator, CompactVLA and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pld_core.cli.main import main
from pld_core.data.episode_store import EpisodeStore
from pld_core.vla.compact_vla import CompactVLA

pytestmark = pytest.mark.slow


def test_every_stage_of_a_real_task_leaves_its_files(tmp_path: Path) -> None:
    assert main(["train", "--preset", "debug"]) in (0, None)
    run = Path("runs/latest")
    outcome = json.loads((run / "eval.json").read_text())
    assert {"base", "specialist", "distilled"} <= set(outcome)
    assert {stage.stem for stage in (run / "stages").glob("*.json")} >= {"base", "harvest", "learn", "probe", "distill"}
    assert len(list(run.glob("**/*.mp4"))) == 3
    assert "distilled" in (run / "report.html").read_text().lower()
    probed = list(EpisodeStore(run / "probe", read_only=True))
    assert [episode.success for episode in probed] == [True, True]
    star = CompactVLA.load(run / "checkpoints" / "distilled.vla")
    assert star.version != json.loads((run / "stages" / "base.json").read_text())["policy"]
