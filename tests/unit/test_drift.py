"""Drift of the actions: which states, what is compared, what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from pld_core.config import load_config
from pld_core.control import ResidualController, SafetyLimits
from pld_core.divergence import gaussian_kl
from pld_core.errors import ConfigError
from pld_core.stages.drift import (
    SMOOTHING,
    ChunkActions,
    HeldOutStates,
    SpecialistActions,
    State,
    check_samples,
    compare,
)
from pld_core.stages.forgetting import _check_specs
from pld_core.types import ActionChunk, ActionSpec, Episode, EpisodeSpec, Observation, ObservationSpec
from pld_core.vla import CompactVLA, CompactVLAConfig

SPEC, STATES, SAMPLES = ActionSpec(), 100, 64
TIGHT = 0.1  # the policy's own spread


class Spread:
    """A Gaussian policy around what it sees; shift: of the first entry; its one answer is the mean."""

    version, action_horizon, feature_dim = "spread", 2, 0

    def __init__(self, shift: float = 0.0) -> None:
        self.mean = np.array([shift, 0, 0, 0, 0, 0, 0], np.float32)

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        return [self._chunk(seen, np.zeros(7)) for seen in observations]

    def sample(self, observation: Observation, count: int, seed: int) -> list[ActionChunk]:
        noise = np.random.default_rng(seed).normal(0.0, TIGHT, (count, 7))
        return [self._chunk(observation, one) for one in noise]

    def _chunk(self, seen: Observation, noise: np.ndarray) -> ActionChunk:
        action = (seen.proprio[:1] + self.mean + noise).astype(np.float32)
        return ActionChunk(np.stack([action, np.zeros(7, np.float32)]), np.zeros(0, np.float32), self.version)


class Answers:
    """The same without a distribution."""

    version, action_horizon, feature_dim = "answers", 2, 0

    def __init__(self, shift: float = 0.0) -> None:
        self._policy = Spread(shift)

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        return self._policy.infer(observations)


class Pushes:
    """A residual that pushes the second entry; explores with noise of its own."""

    def act(self, state: np.ndarray, base_action: np.ndarray, images: object, seeds: np.ndarray | None) -> np.ndarray:
        residual = np.zeros_like(base_action)
        residual[:, 1] = 0.5
        if seeds is not None:
            residual[:, 1] += [np.random.default_rng(seed).normal(0.0, 0.1) for seed in seeds]
        return residual


def states() -> list[State]:
    rng = np.random.default_rng(5)
    seen = rng.uniform(-0.4, 0.4, (STATES, 6)).astype(np.float32)
    return [State(Observation({}, proprio), ("base", k // 2)) for k, proprio in enumerate(seen)]


def specialist(policy: Spread | Answers) -> SpecialistActions:
    limits = SafetyLimits(SPEC)
    return SpecialistActions(policy, Pushes(), 0.4, lambda base, lanes: ResidualController(base, limits, lanes))


def test_a_policy_has_not_moved_from_itself() -> None:
    (pair,) = compare({"base": ChunkActions(Spread()), "distilled": ChunkActions(Spread())}, states(), SPEC, SAMPLES)[
        "pairs"
    ]
    for kl in (pair["kl"], pair["kl_reverse"]):
        assert kl["mean"] == pytest.approx(0.0, abs=0.05)
        assert kl["ci95"][0] < 0.0 < kl["ci95"][1]
    assert all(found["mean"] == found["rms"] == 0.0 for found in pair["difference"].values())


def test_a_shifted_policy_has_moved_by_its_shift() -> None:
    """Two Gaussians of equal spread, smoothed: KL is shift^2 / (2 (spread^2 + smoothing^2)), the same both ways."""
    policies = {"base": ChunkActions(Spread(), batch=7), "distilled": ChunkActions(Spread(0.2))}
    (pair,) = compare(policies, states(), SPEC, SAMPLES)["pairs"]
    wanted = 0.2**2 / (2 * (TIGHT**2 + SMOOTHING**2))
    for kl in (pair["kl"], pair["kl_reverse"]):
        assert kl["ci95"][0] < wanted < kl["ci95"][1]
        assert kl["mean"] == pytest.approx(wanted, rel=0.1)
    assert pair["difference"] == {
        "translation": {"mean": pytest.approx(0.2), "rms": pytest.approx(0.2), "mm": pytest.approx(2.0)},
        "rotation": {"mean": 0.0, "rms": 0.0, "mrad": 0.0},
        "gripper": {"mean": 0.0, "rms": 0.0},
    }


def test_the_specialist_is_base_plus_residual() -> None:
    """Its second entry is moved by xi * 0.5 and spread by xi * 0.1 more; everything else is the base's own."""
    policies = {"base": ChunkActions(Spread()), "specialist": specialist(Spread()), "distilled": ChunkActions(Spread())}
    found = compare(policies, states(), SPEC, SAMPLES)
    assert [(pair["from"], pair["to"]) for pair in found["pairs"]] == [
        ("base", "specialist"), ("specialist", "distilled"), ("base", "distilled"),
    ]  # fmt: skip
    first, back, none = found["pairs"]
    narrow, wide = TIGHT**2 + SMOOTHING**2, TIGHT**2 + SMOOTHING**2 + 0.04**2
    forth = 0.5 * (wide / narrow + 0.2**2 / narrow - 1 - np.log(wide / narrow))
    reverse = 0.5 * (narrow / wide + 0.2**2 / wide - 1 + np.log(wide / narrow))
    assert first["kl"]["mean"] == pytest.approx(forth, rel=0.1)
    assert first["kl_reverse"]["mean"] == pytest.approx(reverse, rel=0.1)
    assert back["kl"]["mean"] == pytest.approx(reverse, rel=0.1)
    assert none["kl"]["mean"] == pytest.approx(0.0, abs=0.05)
    assert first["difference"]["translation"]["mm"] == pytest.approx(2.0, rel=1e-3)


def test_what_only_answers_has_no_divergence() -> None:
    policies = {"base": ChunkActions(Answers()), "specialist": specialist(Answers())}
    (pair,) = compare(policies, states(), SPEC, SAMPLES)["pairs"]
    assert pair["kl"] is None
    assert pair["kl_reverse"] is None
    assert pair["difference"]["translation"]["mm"] == pytest.approx(2.0, rel=1e-3)


def test_an_action_that_is_no_arms_is_one_group() -> None:
    policies = {"base": ChunkActions(Answers()), "distilled": ChunkActions(Answers(0.1))}
    (pair,) = compare(policies, states(), ActionSpec(dim=7, gripper=None), SAMPLES)["pairs"]
    assert pair["difference"] == {"action": {"mean": pytest.approx(0.1), "rms": pytest.approx(0.1)}}


@pytest.mark.parametrize("head", ["flow", "tokens", "diffusion"])
def test_every_head_can_be_sampled(head: str) -> None:
    """Draws differ from each other, repeat with their seed, stay in [-1, 1]; what ``infer`` says is as before."""
    spec = ObservationSpec({}, 6)
    policy = CompactVLA.create(spec, 7, CompactVLAConfig(head=head, horizon=2, width=32, grounding_width=16), seed=1)  # type: ignore[arg-type]
    seen = states()[0].observation
    before = policy.infer([seen])[0]
    drawn = np.stack([chunk.actions for chunk in policy.sample(seen, 32, 4)])
    again = np.stack([chunk.actions for chunk in policy.sample(seen, 32, 4)])
    other = np.stack([chunk.actions for chunk in policy.sample(seen, 32, 5)])
    assert drawn.shape == (32, 2, 7)
    assert np.abs(drawn).max() <= 1.0
    assert len(np.unique(drawn[:, 0, 0])) > 10
    np.testing.assert_array_equal(drawn, again)
    assert not np.array_equal(drawn, other)
    np.testing.assert_array_equal(policy.infer([seen])[0].actions, before.actions)
    np.testing.assert_array_equal(policy.sample(seen, 2, 0)[0].features, before.features)


SMALL = CompactVLAConfig(horizon=2, width=64, grounding_width=16)
SHIFT = np.array([0.2, 0, 0, 0, 0, 0, 0], np.float32)


def test_a_flow_whose_actions_are_shifted_has_moved_by_the_shift() -> None:
    """The same weights under statistics whose mean is 0.2 higher: equal distributions, that far apart."""
    fresh = CompactVLA.create(ObservationSpec({}, 6), 7, SMALL, seed=1)
    stats = {**fresh.stats, "action_std": np.full(7, 0.1, np.float32)}
    base = CompactVLA(fresh.shape, fresh.params, stats)
    star = CompactVLA(fresh.shape, fresh.params, {**stats, "action_mean": SHIFT})
    few = states()[:30]
    (pair,) = compare({"base": ChunkActions(base), "distilled": ChunkActions(star)}, few, SPEC, SAMPLES)["pairs"]
    assert pair["difference"]["translation"]["mm"] == pytest.approx(2.0, rel=1e-3)
    assert pair["difference"]["gripper"]["mean"] == pytest.approx(0.0, abs=1e-6)
    wanted = expected_kl(star, base, few)
    assert pair["kl"]["mean"] == pytest.approx(wanted, rel=0.1)
    assert pair["kl_reverse"]["mean"] == pytest.approx(wanted, rel=0.1)


def test_fine_tuning_to_a_shifted_action_shows_as_drift() -> None:
    """VLA* is taught the base's own data with 0.2 added to the first entry, and moves there and hardly elsewhere."""
    rng = np.random.default_rng(6)
    fresh = CompactVLA.create(ObservationSpec({}, 6), 7, SMALL, seed=1)
    action, options = rng.normal(0.0, 0.15, (500, 7)).astype(np.float32), {"steps": 200, "learning_rate": 2e-3}
    base = fresh.sft([taught(action, rng)], mode="full", **options)
    star = base.sft([taught(action + SHIFT, rng)], mode="full", **options)
    few = states()[:20]
    seen = [state.observation for state in few]
    moved = ChunkActions(star).answers(seen) - ChunkActions(base).answers(seen)
    assert moved[:, 0].mean() > 0.08
    assert np.abs(moved[:, 1:].mean(0)).max() < 0.3 * moved[:, 0].mean()
    pair, itself = (
        compare({"base": ChunkActions(one), "distilled": ChunkActions(star)}, few, SPEC, SAMPLES)["pairs"][0]
        for one in (base, star)
    )
    assert pair["kl"]["mean"] == pytest.approx(expected_kl(star, base, few), rel=0.2)
    assert pair["kl"]["ci95"][0] > 10 * abs(itself["kl"]["mean"])
    assert itself["difference"]["translation"]["mean"] == 0.0


def expected_kl(p: CompactVLA, q: CompactVLA, few: Sequence[State]) -> float:
    """Closed form with the moments of very many draws, and the smoothing as what it adds to the covariance."""
    found = []
    for state in few:
        drawn = [ChunkActions(one).draw(state.observation, 1000, 99) for one in (p, q)]
        moments = [(one.mean(0), np.cov(one.T) + SMOOTHING**2 * np.eye(7)) for one in drawn if one is not None]
        found.append(gaussian_kl(*moments[0], *moments[1]))
    return float(np.mean(found))


def taught(action: np.ndarray, rng: np.random.Generator) -> Episode:
    """An episode of these actions, at random states."""
    length, nothing = len(action), np.zeros((len(action) + 1, 7), np.float32)
    proprio = rng.uniform(-0.4, 0.4, (length + 1, 6)).astype(np.float32)
    return Episode(
        EpisodeSpec("reach", 0), "reach", proprio, proprio, {}, nothing, nothing[1:], action,
        np.zeros(length, np.float32), np.zeros(length, np.uint8), np.zeros(length, bool), True, False, True,
    )  # fmt: skip


def episode(seed: int, length: int = 12, voided: bool = False, pictures: bool = True) -> Episode:
    spec = EpisodeSpec("reach", seed, "evaluate", record_images=pictures)
    whole = taught(np.zeros((length, 7), np.float32), np.random.default_rng(seed))
    images = {"front": np.arange(length + 1, dtype=np.uint8)[:, None] * np.ones(3, np.uint8)}
    ticks = np.repeat(np.arange(length + 1, dtype=np.float32)[:, None], 6, axis=1)
    return Episode(**{**vars(whole), "spec": spec, "proprio": ticks, "images": images, "voided": voided})


def test_states_come_from_base_and_specialist_alike_where_the_base_plans() -> None:
    held = HeldOutStates(20, episodes=5, every=4)
    assert held.episodes == 5
    for seed in range(5):
        for policy in ("base", "specialist", "distilled"):
            held.see(policy, episode(seed))
    found = held.all()
    assert [state.episode[0] for state in found] == ["base"] * 10 + ["specialist"] * 10
    assert {state.episode[1] for state in found} == set(range(5))
    assert {float(state.observation.proprio[0]) for state in found} == {0.0, 4.0, 8.0}
    assert all(state.observation.images["front"][0] == state.observation.proprio[0] for state in found)
    assert not held.wants("base")


def test_spoilt_episodes_and_those_without_pictures_are_passed_over() -> None:
    held = HeldOutStates(4, episodes=100, every=1)
    assert held.episodes == 2
    for seed, kind in enumerate(({"voided": True}, {"pictures": False}, {}, {}, {})):
        held.see("base", episode(seed, **kind))
    assert [state.episode for state in held.all()] == [("base", 2), ("base", 3)]
    assert HeldOutStates(0, episodes=100, every=1).all() == []


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="drift_samples is 9; actions of 7 entries need at least 10"):
        check_samples(9, SPEC)
    check_samples(10, SPEC)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"task": "peg_insertion", "evaluate.other_tasks": ("peg_insertion",)},
            "not 'peg_insertion', which is trained",
        ),
        ({"evaluate.other_tasks": ("a", "a")}, "give each once"),
        ({"evaluate.other_tasks": ("a",), "runner": "ros"}, "simulated, with runner local only"),
    ],
)
def test_other_tasks_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("custom", settings)


def test_another_observation_is_refused_with_what_differs() -> None:
    def world(size: int, proprio: int) -> SimpleNamespace:
        return SimpleNamespace(observation_spec=ObservationSpec({"front": (size, size, 3)}, proprio), action_spec=SPEC)

    _check_specs("reach", world(64, 13), "push", world(64, 13))  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError,
        match=r"'push', in which policies of 'reach' cannot act: cameras .*128.*; proprio_dim 8 instead of 13",
    ):
        _check_specs("reach", world(64, 13), "push", world(128, 8))  # type: ignore[arg-type]
