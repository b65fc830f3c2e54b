"""The success classifier: verdicts, memory, drift, file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import toy_classifier

from pld_core import bring
from pld_core.checkpoint import save_checkpoint
from pld_core.errors import CheckpointError, ConfigError, ContractError, NonFiniteError, UnknownNameError
from pld_core.rewards.classifier import SuccessClassifier
from pld_core.rewards.classifier.network import NetworkShape, init_network, judge_many
from pld_core.rewards.debounce import Debounce
from pld_core.types import Observation

NAMES = ("tool_z_m", "gripper_width_m")


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
