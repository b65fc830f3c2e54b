"""``pld replay``: recordings agree with the simulator, with the policy, and with what the learner had."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from bagged import write_episode_bag
from recorded import assert_same, local_episodes, looking_base

from pld_core.checkpoint import load_checkpoint
from pld_core.cli.main import main
from pld_core.data.episode_store import EpisodeStore
from pld_core.data.replay import ReplayBuffer
from pld_core.errors import CheckpointError, ConfigError, StageError
from pld_core.types import Observation
from pld_core.vla.callable_policy import CallablePolicy
from pld_ros.recording.bags import add_label
from pld_ros.replay import command as replay


@pytest.fixture(scope="module")
def episodes():
    return local_episodes(3)


@pytest.fixture
def run_dir(tmp_path, episodes):
    """A run with the bags of three episodes, and one that a fault voided."""
    first = 1
    for k, episode in enumerate(episodes):
        write_episode_bag(tmp_path / "run" / "bags", episode, f"e{k}", first)
        first += len(episode) + 1
    faulty = {"ticks": 4, "last_sequence": first + 3, "voided": True, "success": False, "reason": "camera"}
    write_episode_bag(tmp_path / "run" / "bags", episodes[0], "e9", first, **faulty)
    return tmp_path / "run"


def _a_little_lower(observation: Observation) -> np.ndarray:
    return looking_base(observation) - np.array([0.0, 0.25, 0.0], np.float32)


same_policy = CallablePolicy(looking_base, version="biased")
other_policy = CallablePolicy(_a_little_lower, version="other")


def result_of(capsys, *args) -> dict:
    assert replay.run([*map(str, args), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_is_json_whatever_was_measured(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(replay, "_episodes", lambda *_, **__: [])
    monkeypatch.setattr(replay, "_compare", lambda *_: {"max_reward": float("inf"), "ticks": np.int64(3)})
    assert result_of(capsys, tmp_path, "--twin") == {"max_reward": None, "ticks": 3}


def test_the_twin_repeats_a_simulated_recording_exactly(run_dir, capsys, monkeypatch):
    with_camera_off(monkeypatch)
    result = result_of(capsys, run_dir, "--twin")
    assert result["exact"] is True
    assert result["max_proprio"] == result["max_reward"] == 0.0
    assert [e["voided"] for e in result["episodes"]] == [False, False, False, True]
    assert (run_dir / "replay" / "twin.png").stat().st_size > 5000
    assert json.loads((run_dir / "replay" / "twin.json").read_text())["ticks"] == result["ticks"]


def with_camera_off(monkeypatch):
    """The twin of the little environment with its camera, which hides the goal."""
    from functools import partial

    from pld_sim.point_reach import point_reach

    monkeypatch.setattr("pld_core.registry.load", lambda kind, name: partial(point_reach, camera=True))


def test_the_twin_shows_what_was_tampered_with(run_dir, episodes, capsys, monkeypatch, tmp_path):
    with_camera_off(monkeypatch)
    action = episodes[0].action.copy()
    action[2, 0] = 0.9
    bag = write_episode_bag(tmp_path / "bags", dataclasses.replace(episodes[0], action=action), "e")
    result = result_of(capsys, bag, "--twin", "--out", tmp_path / "out")
    (found,) = result["episodes"]
    assert result["exact"] is False
    assert found["proprio"][:3] == [0.0, 0.0, 0.0]
    assert found["proprio"][3] > 0.01
    assert (tmp_path / "out" / "twin.json").exists()


def test_the_tabletop_twin_is_exact_in_millimetres(tmp_path, capsys):
    """With rotation and gripper, and images left out of what the learner gets."""
    from pld_core.bring import environment_factory
    from pld_core.rewards import BinaryReward
    from pld_core.stages.runner import LocalRunner
    from pld_core.types import EpisodeSpec

    environments = environment_factory("peg_insertion")(1)
    policy = CallablePolicy(_wander, version="wander")
    runner = LocalRunner(environments, policy, BinaryReward)
    (episode,) = runner.run([EpisodeSpec("peg_insertion", 3)])
    runner.close()
    bare = dataclasses.replace(episode, images={}, spec=dataclasses.replace(episode.spec, record_images=False))
    bag = write_episode_bag(tmp_path / "bags", bare, "e")
    result = result_of(capsys, bag, "--twin")
    assert result["exact"] is True
    assert result["max_position_mm"] == result["max_rotation_rad"] == 0.0
    assert len(result["episodes"][0]["position_mm"]) == len(episode) + 1


def _wander(observation: Observation) -> np.ndarray:
    x, y, z = observation.proprio[:3]
    return np.array([np.sin(40 * z), np.cos(30 * x), -0.3, np.sin(50 * y), 0.2, -0.1, 1.0], np.float32)


def test_the_same_policy_decides_the_same(run_dir, capsys):
    result = result_of(capsys, run_dir, "--policy", f"{__name__}:same_policy")
    assert result["max_base_action"] == [0.0, 0.0, 0.0]
    assert result["voided"] == 1
    assert result["policy"] == result["recorded_policy"] == "biased"
    assert (run_dir / "replay" / "policy.png").exists()


def test_another_policy_is_told_apart_per_entry(run_dir, capsys):
    result = result_of(capsys, run_dir / "bags" / "e0", "--policy", f"{__name__}:other_policy")
    assert result["max_base_action"] == pytest.approx([0.0, 0.25, 0.0], abs=1e-6)
    assert result["mean_base_action"][1] == pytest.approx(0.25, abs=1e-6)


def test_rebuilt_data_are_those_of_the_learner(run_dir, episodes, tmp_path, capsys):
    out = tmp_path / "rebuilt"
    result = result_of(capsys, run_dir, "--rebuild", out, "--images")
    assert (result["episodes"], result["voided"], result["transitions"]) == (4, 1, sum(map(len, episodes)))
    stored = list(EpisodeStore(out / "episodes"))
    for given, expected in zip(stored, episodes, strict=False):
        assert_same(given, expected)
    assert stored[3].voided
    shapes = {"top": (32, 32, 3)}
    rows = sum(len(episode) + 1 for episode in episodes)
    arrays, metadata = load_checkpoint(out / "replay.ckpt")
    learners = ReplayBuffer(rows, episodes[0].state.shape[1], 3, shapes, metadata["gamma"])
    for episode in episodes:
        learners.add(episode)
    assert metadata["images"] is True
    for name, values in learners.state_dict().items():
        assert np.asarray(arrays[name]).tobytes() == values.tobytes(), name
    with pytest.raises(ConfigError, match="new folder"):
        replay.run([str(run_dir), "--rebuild", str(out)])


def test_verdicts_and_modes_choose_what_is_rebuilt(run_dir, tmp_path, capsys):
    add_label(run_dir / "bags" / "e0", "void", in_time=False)
    assert result_of(capsys, run_dir, "--rebuild", tmp_path / "a")["voided"] == 2
    assert result_of(capsys, run_dir, "--rebuild", tmp_path / "b", "--as-learned")["voided"] == 1
    with pytest.raises(ConfigError, match="there are base"):
        replay.run([str(run_dir), "--rebuild", str(tmp_path / "c"), "--mode", "learn"])
    with pytest.raises(StageError, match="nothing to train on"):
        replay.run([str(run_dir / "bags" / "e9"), "--rebuild", str(tmp_path / "d")])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "one of --twin, --policy and --rebuild"),
        (["--twin", "--policy", "base"], "one of"),
        (["--twin", "--nonsense"], "one run's folder"),
        (["--twin", "--specialist", "x"], "--policy too"),
    ],
)
def test_wrong_flags_are_explained(run_dir, flags, message):
    with pytest.raises(ConfigError, match=message):
        replay.run([str(run_dir), *flags])


def test_wrong_paths_are_explained(run_dir, tmp_path, capsys):
    with pytest.raises(ConfigError, match="no folder"):
        replay.run([str(tmp_path / "none"), "--twin"])
    with pytest.raises(ConfigError, match="No bags in"):
        replay.run([str(tmp_path), "--twin"])
    with pytest.raises(CheckpointError, match="no checkpoint"):
        replay.run([str(run_dir), "--policy", "missing.vla"])
    assert main(["replay", str(tmp_path / "none"), "--twin"]) == 2
    assert "no folder" in capsys.readouterr().err


def test_the_verb_is_known_and_explains_itself(capsys):
    assert main(["replay", "--help"]) == 0
    assert "--rebuild OUT" in capsys.readouterr().out
