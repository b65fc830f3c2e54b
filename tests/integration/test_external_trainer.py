"""A run whose base PLD cannot train: what it leaves for a trainer elsewhere, and the evaluation of what comes back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toy_run import SETTINGS

from pld_core.api import Pipeline
from pld_core.cli import main as cli
from pld_core.config import DistillConfig, TrainConfig
from pld_core.data.episode_store import EpisodeStore
from pld_core.data.lerobot import LeRobotReader
from pld_core.errors import ConfigError, StageError, StorageError
from pld_core.stages.export import ExportConfig, _distill_for
from pld_core.stages.trainers import job
from pld_core.types import RESIDUAL_TICK

BRIEF = {**SETTINGS, "learn.steps": 600, "learn.eval_every": 0, "probe.episodes": 4, "evaluate.episodes": 10}
OTHER = {"evaluate.other_tasks": ("tiny_run:FarReach",), "evaluate.other_episodes": 4}


def run(name: str, **settings: object) -> Pipeline:
    return Pipeline(
        "point_reach", "pld_sim.point_reach:biased_base", preset="custom", name=name, **{**BRIEF, **settings}
    )


def imitated(folder: Path) -> list[np.ndarray]:
    """What the specialist did in the probes."""
    found = [(episode, np.flatnonzero(episode.source == RESIDUAL_TICK)) for episode in EpisodeStore(folder / "probe")]
    return [episode.action[ticks[0] :] for episode, ticks in found if len(ticks)]


def test_a_run_leaves_the_folder_resumes_it_and_takes_back_what_was_trained(monkeypatch):
    write, folder = job.write_atomic, Path("runs/far/distill/openpi")

    def full_disk(path: Path, content: str) -> None:
        if path.name == job.README:
            raise StorageError("Cannot write: the disk is full")
        write(path, content)

    with monkeypatch.context() as full:
        full.setattr(job, "write_atomic", full_disk)
        with pytest.raises(StorageError):
            run("far", **{"distill.trainer": "openpi", **OTHER}).train()
    assert not Path("runs/far/stages/distill.json").exists()
    run("far", **{"distill.trainer": "openpi", **OTHER}).train()
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "datasets", "pld_export.json", "pld_openpi.py", "policy.yaml", "serve.sh", "train.sh",
    }  # fmt: skip
    exported = [episode.action for episode, _ in LeRobotReader(folder / "datasets" / "pld" / "far")]
    for given, back in zip(imitated(Path("runs/far")), exported, strict=True):
        np.testing.assert_array_equal(back, given)
    assert "distill/openpi/README.md" in Path("runs/far/report.html").read_text()
    assert "distilled" not in json.loads(Path("runs/far/eval.json").read_text())

    forgetting = Path("runs/far/forgetting.json")
    base_alone = json.loads(forgetting.read_text())
    assert list(base_alone["tasks"]["tiny_run:FarReach"]) == ["base"]

    # What the trainer would have made is stood in for by another policy.
    assert cli.main(["eval", "--run", "runs/far", "--star", "pld_sim.point_reach:biased_base"]) == 0
    found = json.loads(Path("runs/far/eval.json").read_text())
    assert found["distilled"]["successes"] == found["base"]["successes"]  # the same policy on the same seeds
    assert found["distilled"]["policy"] == "pld_sim.point_reach:biased_base"
    assert "VLA*" in Path("runs/far/report.html").read_text()
    rates = json.loads(forgetting.read_text())["tasks"]["tiny_run:FarReach"]
    assert rates["base"] == base_alone["tasks"]["tiny_run:FarReach"]["base"]
    assert rates["distilled"] == rates["base"]

    assert cli.main(["export", "runs/far", "--for", "openpi", "--start", "pi0_libero@/ckpt", "--out", "out"]) == 0
    assert "START_CONFIG = 'pi0_libero'" in Path("out/pld_openpi.py").read_text()
    assert len(LeRobotReader("out/datasets/pld/far")) == len(exported)


def test_without_a_setting_the_run_says_what_to_set(capsys):
    run("near").train()
    said = json.loads(Path("runs/near/stages/distill.json").read_text())["skipped"]
    assert "--distill.trainer openpi or --distill.trainer openvla_oft" in said
    assert "pld export runs/near --for openpi" in " ".join(capsys.readouterr().out.split())
    assert "distill.trainer openpi" in Path("runs/near/report.html").read_text()


def test_what_cannot_work_is_refused_before_the_first_episode():
    with pytest.raises(ConfigError, match=r"in_process, but CallablePolicy has no sft"):
        run("a", **{"distill.trainer": "in_process"}).train()
    with pytest.raises(ConfigError, match=r"seven actions, the gripper last; this robot has 3"):
        run("b", **{"distill.trainer": "openvla_oft"}).train()
    assert not list(Path("runs").glob("*/harvest/episode-*"))
    run("c").harvest()
    with pytest.raises(StageError, match=r"run `pld eval` first"):
        run("c").evaluate_star("pld_sim.point_reach:biased_base")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--start", "a@b"], "give --for openpi"),
        (["--for", "openpi", "--format", "rlds"], "leave out --data, --format"),
        (["--for", "openpi", "--append"], "goes on by itself"),
        (["--for", "openpi", "--start", "a"], "CONFIG@CHECKPOINT"),
        (["--for", "openpi"], "holds no probe episodes"),
    ],
)
def test_an_export_for_a_trainer_says_what_it_cannot(tmp_path, capsys, arguments, words):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("task: point_reach\nrobot: none\n")
    assert cli.main(["export", "run", "--out", "set", *arguments]) == cli.EXIT_ERROR
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        (["--for", "openpi"], "distill: {mode: head}\n", "give --mode full or --mode lora"),
        (["--for", "openpi", "--steps", "0"], "", "distill.steps must be greater than 0"),
        (["--for", "openpi"], "probe: {image_every: 2}\nreplan_every: 2\n", "cannot be used. Probe with"),
        (["--for", "openpi"], "policy: openpi:aloha\n", "--start"),
        (["--for", "openpi", "--mode", "lora"], "distill: {mode: head}\n", "holds no probe episodes"),
        # A start for openpi says nothing to another trainer.
        (["--for", "openvla_oft"], "distill: {trainer: openpi, start: a@b}\n", "holds no probe episodes"),
    ],
)
def test_an_export_of_a_finished_run_has_a_way_out(tmp_path, capsys, arguments, settings, words):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(f"task: point_reach\nrobot: none\n{settings}")
    assert cli.main(["export", "run", "--out", "set", *arguments]) == cli.EXIT_ERROR
    assert words in " ".join(capsys.readouterr().err.split())


def test_an_export_takes_over_a_start_of_its_own_trainer_only():
    config = ExportConfig(Path("run"), Path("out"), trainer="openvla_oft", mode="lora", steps=7)
    for trainer, start in (("openpi", ""), ("openvla_oft", "a@b")):
        own = TrainConfig(distill=DistillConfig(trainer=trainer, start="a@b", mode="head"))  # type: ignore[arg-type]
        found = _distill_for(config, own)
        assert (found.trainer, found.start, found.mode, found.steps) == ("openvla_oft", start, "lora", 7)
