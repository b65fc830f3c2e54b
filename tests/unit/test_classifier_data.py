"""What a success classifier learns from: labels, splits, mined negatives, augmentation, settings."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import toy_classifier

from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import ConfigError
from pld_core.rewards.classifier.augment import Augmentation
from pld_core.rewards.classifier.dataset import SHARES_OF_TWO, labels, read_frames, split
from pld_core.rewards.classifier.network import take_eyes
from pld_core.rewards.classifier.training import ClassifierTraining, _Pools, fingerprint
from pld_core.types import Episode, EpisodeSpec, ObservationSpec
from pld_core.vla import CompactVLA, CompactVLAConfig

NAMES = ("tool_z_m", "gripper_width_m")


def episode(reward: list[float], success: bool = False, seed: int = 0, voided: bool = False) -> Episode:
    ticks = len(reward)
    images = {"top": np.zeros((ticks + 1, 16, 16, 3), np.uint8), "side": np.ones((ticks + 1, 16, 16, 3), np.uint8)}
    column = np.zeros((ticks + 1, 2), np.float32)
    return Episode(
        EpisodeSpec("toy", seed), "go", column, column, images, column, column[1:], column[1:],
        np.array(reward, np.float32), np.zeros(ticks, np.uint8), np.zeros(ticks, bool), success, not success, success,
        voided=voided,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (episode([0, 0, 1], success=True), [0, 0, 0, 1]),
        (episode([0, 1, 1, 0]), [0, 0, 1, 1, 0]),
        (episode([0, 0, 0]), [0, 0, 0, 0]),
        (episode([-0.1, 3.0], success=True), [0, 0, 1]),
        (episode([0, 0], success=True), [0, 0, 1]),
    ],
)
def test_labels(made, expected):
    assert labels(made).astype(int).tolist() == expected


def test_reading_recorded_episodes(tmp_path):
    store = EpisodeStore(tmp_path / "data")
    store.append(episode([0, 1]), source="oracle", attempt=7)
    store.append(episode([0, 0, 0]))
    store.append(episode([0], voided=True))
    found = read_frames([tmp_path / "data"], ("side",))
    assert found.cameras == (("side", 16, 16),)
    assert found.success.tolist() == [False, False, True] + [False] * 4
    assert found.sources == ("oracle", "base")
    assert "attempt 7" in found.names[0]
    with pytest.raises(ConfigError, match="wrist"):
        read_frames([tmp_path / "data"], ("wrist",))
    with pytest.raises(ConfigError, match="not a folder"):
        read_frames([tmp_path / "elsewhere"])


def test_split_keeps_episodes_whole_and_apart():
    data = toy_classifier.frames(40)
    parts = split(data, 0)
    assert sum(len(part.names) for part in parts) == 40
    assert len({name for part in parts for name in part.names}) == 40
    for part in parts:
        assert part.success.any()
        assert len(part) == 6 * len(part.names)
    assert [part.names for part in split(data, 0)] == [part.names for part in parts]
    with pytest.raises(ConfigError, match=r"no success|no failure"):
        split(toy_classifier.frames(4), 0)
    alone, rest = split(data, 0, SHARES_OF_TWO)
    assert alone.names == parts[0].names  # a training goes on with the same episodes
    assert set(rest.names) == {*parts[1].names, *parts[2].names}


@pytest.mark.parametrize("seed", range(5))
def test_split_keeps_episodes_of_one_scene_together(seed):
    scenes = tuple(f"scene {k // 2}" for k in range(80))
    parts = split(dataclasses.replace(toy_classifier.frames(80), scenes=scenes), seed)
    held = [set(part.scenes) for part in parts]
    assert sum(map(len, held)) == len(set.union(*held)) == 40
    assert sum(len(part.names) for part in parts) == 80


def test_the_same_scene_in_two_folders_is_one_scene(tmp_path):
    for name in ("a", "b"):
        EpisodeStore(tmp_path / name).append(episode([0, 1], seed=3))
    assert len(set(read_frames([tmp_path / "a", tmp_path / "b"]).scenes)) == 1
    with pytest.raises(ConfigError, match="more than once"):
        read_frames([tmp_path / "a", tmp_path / "b" / ".." / "a"])


def test_a_training_goes_on_only_with_what_it_began_with():
    data, config = toy_classifier.frames(4), ClassifierTraining()
    relabelled = dataclasses.replace(data, success=~data.success)
    renamed = dataclasses.replace(data, names=tuple(f"{name}, again" for name in data.names))
    others = [
        (data, dataclasses.replace(config, augmentation=Augmentation(shift=1)), "base 1"),
        (data, dataclasses.replace(config, hard_share=0.5), "base 1"),
        (data, config, "base 2"),
        (data, config, "scratch"),
        (relabelled, config, "base 1"),
        (renamed, config, "base 1"),
    ]
    found = [fingerprint(toy_classifier.SHAPE, *each) for each in [(data, config, "base 1"), *others]]
    assert len(set(found)) == len(found)
    assert fingerprint(toy_classifier.SHAPE, toy_classifier.frames(4), ClassifierTraining(), "base 1") == found[0]


def test_mining_takes_the_negatives_that_score_highest():
    data = toy_classifier.frames(4)
    pools = _Pools(data)
    assert not data.success[pools.near].any()
    logits = np.arange(len(data), dtype=float)
    pools.mine(logits, 0.2)
    negative = np.flatnonzero(~data.success)
    assert sorted(pools.hard) == sorted(negative[-int(0.2 * len(negative)) :])


def test_augmentation_keeps_shape_and_range():
    images = {"top": np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)}
    altered = Augmentation()(jax.random.key(0), images)["top"]
    assert altered.shape == (4, 16, 16, 3)
    assert float(altered.min()) >= 0
    assert float(altered.max()) <= 255
    still = Augmentation(0, 0.0, 0.0, 0.0)(jax.random.key(0), images)["top"]
    np.testing.assert_allclose(np.asarray(still), images["top"], atol=1e-3)
    with pytest.raises(ConfigError, match="shift"):
        Augmentation(shift=-1)


@pytest.mark.parametrize("wrong", [{"batch_size": 1}, {"hard_share": 0.0}, {"mining_rounds": -1}, {"steps": 0}])
def test_training_settings_that_cannot_work(wrong):
    with pytest.raises(ConfigError):
        ClassifierTraining(**wrong)


def test_eyes_of_a_policy_without_that_camera():
    spec = ObservationSpec({"top": (16, 16, 3)}, 2)
    policy = CompactVLA.create(spec, 3, CompactVLAConfig(stem=8, channels=4, keypoints=2))
    cameras, text = take_eyes(policy, (("top", 16, 16),), "go")
    assert set(cameras) == {"top"}
    assert text.shape == (16,)
    with pytest.raises(ConfigError, match="--encoder scratch"):
        take_eyes(policy, (("top", 32, 32),), "go")
