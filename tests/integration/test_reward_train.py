"""``pld reward-train`` from nothing to a reward that judges, and runs that a reward of its own eyes judges."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import toy_run

from pld_core import bring
from pld_core.cli import main as cli
from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import ConfigError
from pld_core.rewards.predicate import Predicate
from pld_core.rewards.staged import PredicateReward
from pld_core.stages.reward_data import SOURCES, Onlooker, collect_labelled
from pld_core.stages.runner import LocalRunner
from pld_core.types import EpisodeSpec, Observation, TimeStep
from pld_core.vla.callable_policy import CallablePolicy
from pld_sim.point_reach import PointReach, biased_base, point_reach

MADE_ONCE = ("episodes/*.npz", "training/*.state")


@pytest.fixture
def task(monkeypatch) -> str:
    """A task with a camera, by its module's name."""
    module = types.ModuleType("toy_camera")
    module.make = lambda lanes: point_reach(lanes, camera=True)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_camera", module)
    return "toy_camera:make"


def small_training(task: str) -> list[str]:
    command = ["reward-train", "--task", task, "--policy", "pld_sim.point_reach:biased_base", "--encoder", "scratch"]
    command += ["--episodes", "66", "--steps", "40", "--mining_rounds", "1", "--batch_size", "16", "--lanes", "4"]
    return [*command, "--hidden", "16", "--memory_dim", "4", "--memory_steps", "20"]


def test_reward_train_makes_a_reward_and_a_report(task, capsys):
    command = [*small_training(task), "--predicate", "x < 2", "--out", "out"]
    assert cli.main(command) == 0
    assert "pld train --reward classifier:out/success.ckpt" in capsys.readouterr().out
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert metrics["provenance"]["episodes"]["training"] > 30
    assert metrics["provenance"]["settings"]["task"] == task
    assert 0 <= metrics["held_out"]["episodes"]["false_positive"]["rate"] <= 1
    page = Path("out/report.html").read_text()
    for title in ("ROC", "Confusion", "Calibration", "Score over time", "Worst errors", "Provenance"):
        assert f"<h2>{title}</h2>" in page
    assert "http" not in page.replace("http-equiv", "")  # nothing is fetched
    reward = bring.reward_factory("classifier:out/success.ckpt")()
    reward.reset()
    step = PointReach(camera=True).reset(0)
    assert isinstance(reward.score(step)[0], float)

    made = {path: path.stat().st_mtime_ns for pattern in MADE_ONCE for path in Path("out").glob(pattern)}
    assert [len(list(Path("out").glob(pattern))) for pattern in MADE_ONCE] == [66, 3]
    assert cli.main(command) == 0  # again: nothing is collected or trained a second time
    assert {path: path.stat().st_mtime_ns for path in made} == made
    again = json.loads(Path("out/metrics.json").read_text())
    assert again["held_out"] == metrics["held_out"]

    assert cli.main([*command, "--tint", "0.3"]) == cli.EXIT_ERROR, "the weights in there were trained otherwise"
    assert "another training run" in capsys.readouterr().err


def test_other_episodes_may_be_held_out(task, capsys):
    command = small_training(task)
    assert cli.main([*command, "--seed", "1", "--out", "other"]) == 0
    assert cli.main([*command, "--out", "out"]) == 0
    before = json.loads(Path("out/metrics.json").read_text())["provenance"]["episodes"]
    assert cli.main([*command, "--out", "out", "--held_out", "other/episodes"]) == 0  # the training is that of before
    after = json.loads(Path("out/metrics.json").read_text())["provenance"]["episodes"]
    assert after["training"] == before["training"]
    assert after["validation"] == before["validation"] + before["held_out"]
    assert after["held_out"] == len(EpisodeStore(Path("other/episodes"), read_only=True))

    assert cli.main([*command, "--out", "out", "--held_out", "out/episodes"]) == cli.EXIT_ERROR
    assert "more than once" in capsys.readouterr().err
    assert cli.main([*command, "--out", "more", "--held_out", "nowhere"]) == cli.EXIT_ERROR
    assert not Path("more").exists(), "before minutes of collecting, not after"
    capsys.readouterr()
    assert cli.main([*command, "--out", "out", "--held_out", str(shutil.copytree("out/episodes", "copy"))]) == 0
    assert "66 of 66 held-out episodes have task and seed of others" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "--task NAME"),
        (["--data", "nowhere"], "not a folder"),
        (["--task", "peg_insertion", "--debounce", "4", "3"], "N of M"),
        (["--task", "peg_insertion", "--predicate", "tool_q < 1"], "tool_q"),
        (["--task", "peg_insertion", "--max_false_positive_rate", "1.5"], "max_false_positive_rate"),
        (["--task", "peg_insertion", "--memory_dim", "-1"], "memory_dim"),
    ],
)
def test_reward_train_refuses_before_it_works(arguments, complaint, capsys):
    assert cli.main(["reward-train", *arguments]) == cli.EXIT_ERROR
    assert complaint in capsys.readouterr().err


def collected(folder: Path, episodes: int) -> EpisodeStore:
    store = EpisodeStore(folder)
    collect_labelled(point_reach(3, camera=True), bring.base_policy(biased_base), store, episodes, run_seed=1)
    return store


def test_collecting_goes_on_where_it_stopped(tmp_path):
    whole = collected(tmp_path / "whole", 12)
    collected(tmp_path / "parts", 5)
    parts = collected(tmp_path / "parts", 12)
    assert [m["source"] for m in whole.metadata()] == list(SOURCES) * 2
    for one, other in zip(whole, parts, strict=True):
        assert one.spec == other.spec
        np.testing.assert_array_equal(one.action, other.action)
        np.testing.assert_array_equal(one.images["top"], other.images["top"])
    assert sum(e.reward.sum() > 1 for e in whole) > 3  # success is seen for more than one frame
    near = [e for e, m in zip(whole, whole.metadata()) if m["source"] == "near miss"]
    assert near


def test_no_store_has_episodes_of_two_policies_or_tasks(tmp_path):
    store = collected(tmp_path, 2)
    other = CallablePolicy(_towards, version="other")
    with pytest.raises(ConfigError, match=r"policy .*, not other"):
        collect_labelled(point_reach(1, camera=True), other, store, 3, run_seed=1)
    elsewhere = point_reach(1, camera=True)
    elsewhere[0].task = "another"
    with pytest.raises(ConfigError, match="task point_reach, not another"):
        collect_labelled(elsewhere, bring.base_policy(biased_base), store, 3, run_seed=1)
    assert len(EpisodeStore(tmp_path)) == 2


def test_onlooker_labels_every_frame_and_ends_later():
    onlooker = Onlooker(after=2)
    seen = Observation({}, np.zeros(1, np.float32))
    outcomes = [onlooker.score(TimeStep(seen, success=s)) for s in (False, True, False, True, True)]
    assert outcomes == [(0.0, False), (1.0, False), (0.0, False), (1.0, True), (1.0, True)]


# -- whose word ends an episode ----------------------------------------------------------------------


class Blind:
    """Never sees success."""

    sees_for_itself = True

    def reset(self) -> None:
        return None

    def score(self, step: TimeStep) -> tuple[float, bool]:
        return 0.0, False


def test_a_success_that_the_reward_does_not_see_ends_nothing():
    environment = PointReach()
    runner = LocalRunner([environment], bring.base_policy(lambda o: _towards(o)), Blind)
    (episode,) = runner.run([EpisodeSpec("point_reach", 3)])
    assert len(episode) == environment.max_steps
    assert (episode.terminated, episode.truncated, episode.success) == (False, True, False)
    assert episode.environment_success
    assert not episode.reward.any()
    (judged,) = runner.with_reward(bring.reward_factory("binary")).run([EpisodeSpec("point_reach", 3)])
    assert judged.success
    assert judged.terminated
    assert len(judged) < len(episode)


def test_an_environment_that_ends_anyway_is_bootstrapped_through():
    class Stubborn(PointReach):
        stop_at_success = property(lambda self: True, lambda self, value: None)  # type: ignore[assignment]

    runner = LocalRunner([Stubborn()], bring.base_policy(lambda o: _towards(o)), Blind)
    (episode,) = runner.run([EpisodeSpec("point_reach", 3)])
    assert (episode.terminated, episode.truncated, episode.success) == (False, True, False)
    assert episode.environment_success


def _towards(observation: Observation) -> np.ndarray:
    error = (observation.proprio[2:] - observation.proprio[:2]) / 0.1
    return np.array([*np.clip(error, -1, 1), 0.0], np.float32)


def generous() -> PredicateReward:
    """Half of the plane is success: wrong most of the time."""
    return PredicateReward(Predicate.parse("x > 0", PointReach().observation_spec.proprio_names))


def test_evaluation_counts_both_verdicts():
    settings = {
        "learn.steps": 150,
        "learn.eval_every": 0,
        "harvest.successes": 5,
        "probe.episodes": 3,
        "evaluate.episodes": 12,
    }
    run = toy_run.pipeline("both", reward=generous, **settings)
    run.train()
    outcome = json.loads(Path("runs/both/eval.json").read_text())
    claimed = outcome["by_reward"]["base"]
    truth = outcome["base"]
    assert claimed["false_successes"] > 0
    assert claimed["successes"] > claimed["false_successes"] - 1
    assert truth["successes"] != claimed["successes"]
    plain = toy_run.pipeline("plain", **settings)
    plain.train()
    reference = json.loads(Path("runs/plain/eval.json").read_text())
    assert reference["base"] == truth  # the environment's word, whatever the reward believes
    assert "by_reward" not in reference
