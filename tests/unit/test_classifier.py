"""The parts of the success classifier: predicate, debounce, calibration, threshold, drift, file, training data."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import toy_classifier
from hypothesis import given
from hypothesis import strategies as st

from pld_core import bring
from pld_core.checkpoint import save_checkpoint
from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import CheckpointError, ConfigError, ContractError, NonFiniteError, UnknownNameError
from pld_core.rewards.classifier import SuccessClassifier
from pld_core.rewards.classifier.augment import Augmentation
from pld_core.rewards.classifier.calibration import Calibration, calibrate, calibration_error, choose_threshold
from pld_core.rewards.classifier.dataset import SHARES_OF_TWO, labels, read_frames, split
from pld_core.rewards.classifier.measures import Scored, measure, roc
from pld_core.rewards.classifier.network import NetworkShape, init_network, judge_many, take_eyes
from pld_core.rewards.classifier.training import ClassifierTraining, _Pools, fingerprint
from pld_core.rewards.debounce import Debounce, Latch
from pld_core.rewards.predicate import Predicate
from pld_core.types import Episode, EpisodeSpec, Observation, ObservationSpec
from pld_core.vla import CompactVLA, CompactVLAConfig

NAMES = ("tool_z_m", "gripper_width_m")


# -- predicate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "proprio", "holds"),
    [
        ("", (9, 9), True),
        ("tool_z_m < 0.12", (0.1, 0), True),
        ("tool_z_m < 0.12", (0.12, 0), False),
        ("tool_z_m <= 1.2e-1 and gripper_width_m>=.01", (0.12, 0.01), True),
        ("0.05 < tool_z_m < 0.12", (0.04, 0), False),
        ("0.05 < tool_z_m < 0.12", (0.06, 0), True),
        ("-0.5 >= gripper_width_m", (0, -0.5), True),
        ("tool_z_m < 0.12", (np.nan, 0), False),
    ],
)
def test_predicate(text, proprio, holds):
    predicate = Predicate.parse(text, NAMES)
    for kind in (np.float32, np.float64):
        row = np.array(proprio, kind)
        assert predicate.holds(row) == holds
        np.testing.assert_array_equal(predicate.holds_each(np.stack([row, row])), [holds, holds])


@pytest.mark.parametrize(
    "text",
    ["tool_z_m", "tool_z_m < ", "0 < 1", "tool_z_m < gripper_width_m", "tool_z_m = 1", "tool_z_m < 1 or tool_z_m > 2"]
    + ["__import__('os').system('x') < 1", "tool_z_m < 1 and", "tool_z_m < (1)", "tool_z_m.x < 1"],
)
def test_predicate_that_is_none(text):
    with pytest.raises(ConfigError):
        Predicate.parse(text, NAMES)


def test_predicate_suggests_the_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'tool_z_m'"):
        Predicate.parse("tool_z < 1", NAMES)


# -- debounce ----------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 4), st.integers(0, 3))
def test_debounce_of_a_whole_episode_is_that_of_its_ticks(votes, needed, extra):
    rule = Debounce(needed, needed + extra)
    latch = Latch(rule)
    closed = [latch.see(vote) for vote in votes]
    assert rule.first(votes) == (closed.index(True) if any(closed) else None)
    assert closed == sorted(closed)  # it stays closed


@pytest.mark.parametrize("numbers", [(0, 3), (4, 3)])
def test_debounce_that_cannot_be(numbers):
    with pytest.raises(ConfigError, match="N of M"):
        Debounce(*numbers)


# -- calibration and threshold -----------------------------------------------------------------------


def test_calibration_recovers_an_over_confident_and_shifted_logit():
    rng = np.random.default_rng(0)
    honest = rng.normal(-1.0, 2.0, 20_000)
    success = rng.random(20_000) < 1 / (1 + np.exp(-honest))
    given = 3.0 * (honest + 0.7)
    found = calibrate(given, success)
    assert found.temperature == pytest.approx(3.0, rel=0.1)
    assert found.offset == pytest.approx(-0.7, abs=0.1)
    before = calibration_error(Calibration().probability(given), success)
    assert calibration_error(found.probability(given), success) < 0.02 < before


def test_calibration_of_separable_logits_stays_finite():
    found = calibrate(np.array([-9.0] * 50 + [9.0] * 5), np.array([False] * 50 + [True] * 5))
    assert np.isfinite([found.temperature, found.offset]).all()
    assert found.probability(np.array([-1e9, 1e9])).tolist() == pytest.approx([0, 1], abs=1e-9)


def scored(*episodes: tuple[list[float], list[int]]) -> list[Scored]:
    return [
        Scored(f"{k}", "toy", np.array(p), np.array(s, bool), np.ones(len(p), bool))
        for k, (p, s) in enumerate(episodes)
    ]


def test_threshold_counts_failed_episodes_not_only_frames():
    """One failure in a hundred frames is rare by the frame, and every second episode by the episode."""
    failed = ([0.1] * 98 + [0.6, 0.6], [0] * 100)
    quiet = ([0.1] * 100, [0] * 100)
    done = ([0.1] * 90 + [0.9] * 10, [0] * 90 + [1] * 10)
    episodes = [(np.array(p), np.array(s, bool)) for p, s in (failed, quiet, done)]
    threshold = choose_threshold(episodes, Debounce(2, 3), 0.02)
    assert 0.6 < threshold < 0.9
    rates = measure(scored(failed, quiet, done), threshold, Debounce(2, 3))["episodes"]
    assert (rates["false_positive"]["count"], rates["recall"]["count"]) == (0, 1)


@pytest.mark.parametrize(("failed", "above"), [(20, 0), (100, 0), (200, 1), (300, 2)])
def test_threshold_expects_the_rate_of_new_failures(failed, above):
    """The k-th highest of n peaks is exceeded by k of n + 1, not by k - 1 of n."""
    peaks = np.linspace(0.2, 0.4, failed)
    episodes = [(np.array([0.1] * 400 + [p]), np.zeros(401, bool)) for p in peaks]
    episodes.append((np.array([0.1, 0.9]), np.array([False, True])))
    threshold = choose_threshold(episodes[:-1], Debounce(1, 1), 0.01)
    assert (peaks > threshold).sum() == above
    assert threshold < choose_threshold(episodes, Debounce(1, 1), 0.01) < 0.9


def test_threshold_needs_a_rate_between_zero_and_one():
    with pytest.raises(ConfigError, match="max_false_positive_rate"):
        choose_threshold([(np.array([0.1, 0.9]), np.array([False, True]))], Debounce(1, 1), 0.0)


def test_measures():
    early = ([0.9, 0.9, 0.9, 0.9], [0, 0, 1, 1])
    late = ([0.1, 0.1, 0.9, 0.9], [0, 1, 1, 1])
    missed = ([0.1, 0.1, 0.1, 0.9], [0, 0, 1, 1])
    alarm = ([0.9, 0.9, 0.1, 0.1], [0, 0, 0, 0])
    found = measure(scored(early, late, missed, alarm), 0.5, Debounce(2, 3))
    episodes, frames = found["episodes"], found["frames"]
    assert (episodes["recall"]["count"], episodes["recall"]["of"]) == (2, 3)
    assert (episodes["false_positive"]["count"], episodes["false_positive"]["of"]) == (1, 1)
    assert episodes["early"]["count"] == 1
    assert episodes["delay_ticks"] == {"median": 0.5, "earliest": -1, "latest": 2}
    assert (frames["false_positive"]["count"], frames["false_positive"]["of"]) == (4, 9)
    assert (frames["recall"]["count"], frames["recall"]["of"]) == (5, 7)
    assert episodes["fleeting"] == 0
    short = measure(scored(([0.1] * 4, [0, 1, 0, 0])), 0.5, Debounce(2, 3))["episodes"]
    assert (short["fleeting"], short["recall"]["of"], short["false_positive"]["of"]) == (1, 0, 0)


def test_roc_area():
    perfect = scored(([0.1, 0.2, 0.8], [0, 0, 1]))
    assert roc(perfect)[2] == 1.0
    assert roc(scored(([0.5, 0.5], [0, 1])))[2] == pytest.approx(0.5)


# -- data --------------------------------------------------------------------------------------------


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


# -- the classifier ----------------------------------------------------------------------------------


def test_tells_bright_from_dark_and_debounces():
    reward = toy_classifier.classifier()
    estimates = [reward.estimate(toy_classifier.step(b, seed=k).observation) for k, b in enumerate((0, 1, 1, 0))]
    assert [e.success for e in estimates] == [False, False, True, True]
    assert estimates[0].probability < 0.5 < estimates[1].probability
    assert not any(e.drift for e in estimates)


def untrained(memory_dim: int) -> SuccessClassifier:
    shape = dataclasses.replace(toy_classifier.SHAPE, memory_dim=memory_dim)
    ready = toy_classifier.classifier()
    return SuccessClassifier(shape, *init_network(shape, 0), ready.decision, ready.drift)


def probability(reward: SuccessClassifier, *seen: Observation) -> float:
    """Of the last of some ticks that are an episode's first."""
    reward.reset()
    return [reward.estimate(observation) for observation in seen][-1].probability


@pytest.mark.parametrize(("memory_dim", "remembers"), [(0, False), (32, True)])
def test_remembers_what_it_saw_until_reset(memory_dim, remembers):
    reward = untrained(memory_dim)
    dark, bright = (toy_classifier.step(b).observation for b in (False, True))
    assert (probability(reward, dark, bright) != probability(reward, bright, bright)) == remembers
    assert probability(reward, dark, bright) == probability(reward, dark, bright)


def test_what_is_only_watched_is_remembered_alike():
    reward = untrained(32)
    dark, bright = (toy_classifier.step(b).observation for b in (False, True))
    expected = probability(reward, dark, dark, bright)
    reward.reset()
    reward.watch(dark)
    reward.watch(dark)
    assert reward.estimate(bright).probability == expected


def test_verdicts_can_be_forgotten_but_not_what_was_seen():
    reward = toy_classifier.classifier()
    bright = toy_classifier.step(True).observation
    assert [reward.estimate(bright).success for _ in range(2)] == [False, True]
    memory = reward._memory
    reward.clear_latch()
    assert reward._memory is memory
    assert [reward.estimate(bright).success for _ in range(2)] == [False, True]


def test_judges_an_episode_as_it_was_measured():
    reward = toy_classifier.classifier()
    data = toy_classifier.frames(2)
    logits, _ = judge_many(reward.shape, reward.params, reward.stats, data.images, data.proprio, data.episode)
    measured = reward.decision.calibration.probability(logits)
    for number in range(2):
        reward.reset()
        for row in range(data.rows(number).start + 1, data.rows(number).stop):
            seen = Observation({"top": data.images["top"][row]}, data.proprio[row])
            assert reward.estimate(seen).probability == pytest.approx(measured[row], abs=1e-4)


def test_predicate_is_asked_as_well():
    reward = toy_classifier.classifier(Debounce(1, 1), "x_m < 0.5")
    assert reward.score(toy_classifier.step(True, (1.0, 0.0))) == (0.0, False)
    assert reward.score(toy_classifier.step(True, (0.0, 0.0))) == (1.0, True)


@pytest.mark.parametrize("spoil", [lambda i: 255 - i, lambda i: i * 0, lambda i: np.roll(i, 5, axis=2)])
def test_drift_alarm(spoil):
    observation = toy_classifier.step(False).observation
    strange = dataclasses.replace(observation, images={"top": spoil(observation.images["top"]).astype(np.uint8)})
    strange.images["top"][:8] = np.random.default_rng(1).integers(0, 255, (8, 16, 3))
    assert toy_classifier.classifier().estimate(strange).drift


def test_survives_saving(tmp_path):
    reward = toy_classifier.classifier(Debounce(2, 4), "x_m < 0.5", threshold=0.7)
    reward.save(tmp_path / "success.ckpt")
    for again in (SuccessClassifier.load(tmp_path / "success.ckpt"), _by_name(tmp_path / "success.ckpt")):
        assert again.decision == reward.decision
        assert again.provenance == {"made": "by hand"}
        again.reset()
        for bright in (False, True, True):
            observation = toy_classifier.step(bright).observation
            assert again.estimate(observation) == reward.estimate(observation)
        reward.reset()


def _by_name(path):
    return bring.reward_factory(f"classifier:{path}")()


def test_refuses_other_files(tmp_path):
    with pytest.raises(CheckpointError, match="No checkpoint"):
        bring.reward_factory(f"classifier:{tmp_path / 'none.ckpt'}")
    save_checkpoint(tmp_path / "other.ckpt", {"a": np.zeros(1)}, {"kind": "specialist"})
    with pytest.raises(CheckpointError, match="no success classifier"):
        SuccessClassifier.load(tmp_path / "other.ckpt")
    save_checkpoint(tmp_path / "old.ckpt", {"a": np.zeros(1)}, {"kind": "success classifier"})
    with pytest.raises(CheckpointError, match="another version"):
        SuccessClassifier.load(tmp_path / "old.ckpt")


def test_says_what_does_not_fit():
    reward = toy_classifier.classifier(predicate="x_m < 0.5")
    good = toy_classifier.step(True).observation
    image = good.images["top"]
    for images, complaint in (
        ({"side": image}, "no camera 'top'"),
        ({"top": image[:8]}, r"\(16, 16, 3\)"),
        ({"top": image.astype(np.float32)}, "uint8"),
    ):
        with pytest.raises(ContractError, match=complaint):
            reward.estimate(Observation(images, good.proprio))
    with pytest.raises(ContractError, match="x_m, y_m"):
        reward.estimate(Observation({"top": image}, np.zeros(3, np.float32)))
    with pytest.raises(NonFiniteError):
        reward.estimate(Observation({"top": image}, np.array([np.nan, 0.0], np.float32)))


def test_names_with_an_argument():
    with pytest.raises(ConfigError, match="classifier:<path>"):
        bring.reward_factory("classifier")
    with pytest.raises(ConfigError, match="takes no argument"):
        bring.reward_factory("binary:x")
    assert bring.reward_factory("pld_core.rewards:binary")().score(toy_classifier.step(True)) == (0.0, False)
    with pytest.raises(UnknownNameError, match="classifier"):
        bring.reward_factory("clasifier")


def test_shape_is_hashable():
    assert hash(toy_classifier.SHAPE) == hash(dataclasses.replace(toy_classifier.SHAPE))
    assert NetworkShape((("a", 16, 16), ("b", 16, 16)), 0).feature_dim == 2 * (64 + 128)
