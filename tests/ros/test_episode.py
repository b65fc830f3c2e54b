"""Episodes tick by tick: the same as LocalRunner's bit for bit, and under orders."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
import pytest
from episode_bodies import (
    FEATURES,
    PEG,
    POINT,
    PointBody,
    TwinBody,
    assert_same_rows,
    carry_out,
    controller_of,
    point,
    undisturbed,
)
from recorded import assert_same, local_episodes
from sim_driver_tools import direct_episode

from pld_core import bring
from pld_core.interfaces import Environment
from pld_core.rewards import BinaryReward
from pld_core.rl.actor import LearnerActor
from pld_core.rl.config import LearnerConfig
from pld_core.rl.learner import Learner
from pld_core.stages.runner import LocalRunner
from pld_core.types import BASE_TICK, EXPERT_TICK, ActionChunk, EpisodeSpec, Observation
from pld_ros.control.episode import Orders

# -- the same as LocalRunner -----------------------------------------------------------------------


class Remembering:
    """A base policy that does as the expert did wherever its proprioception is the expert's to the bit.

    Elsewhere it wanders as the pictures say, which are all that it knows of the target.
    """

    version, action_horizon, feature_dim = "remembering", 2, 8

    def __init__(self, seed: int) -> None:
        actions, steps, _ = direct_episode(PEG, seed)
        self._known = {s.observation.proprio.tobytes(): a for s, a in zip(steps, actions, strict=False)}

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        return [self._chunk(seen) for seen in observations]

    def _chunk(self, seen: Observation) -> ActionChunk:
        pictures = np.stack([seen.images[name] for name in sorted(seen.images)]).astype(np.float32)
        features = pictures.reshape(self.feature_dim, -1).std(1) / 32
        wander = np.array([*np.sin(9 * features[:6]) / 2, 1.0], np.float32)
        action = self._known.get(seen.proprio.tobytes(), wander)
        return ActionChunk(np.stack([action, action / 2]), features, self.version)


@pytest.fixture(scope="module")
def base() -> Remembering:
    return Remembering(seed=0)


@pytest.fixture(scope="module")
def peg() -> Environment:
    environment = bring.environment_factory(PEG)(1)[0]
    environment.max_steps = 40
    return environment


@pytest.fixture(scope="module")
def twin() -> TwinBody:
    return TwinBody(PEG)


@pytest.fixture(scope="module")
def specialist(base: Remembering, peg: Environment) -> LearnerActor:
    """A residual that acts, but is none the wiser."""
    state_dim = controller_of(base, peg, FEATURES).state_dim(peg.observation_spec)
    learner = Learner(LearnerConfig(hidden=(32, 32)), state_dim, 7)
    shapes, rng = jax.eval_shape(lambda: learner.actor_params(learner.init(0))), np.random.default_rng(0)
    return LearnerActor(learner, jax.tree.map(lambda s: 0.3 * rng.normal(size=s.shape).astype(s.dtype), shapes))


@pytest.mark.parametrize(
    ("spec", "success"),
    [
        pytest.param(EpisodeSpec(PEG, 0), True, id="base, success"),
        pytest.param(EpisodeSpec(PEG, 2, record_images=False), False, id="base, time is up"),
        pytest.param(EpisodeSpec(PEG, 1, "learn", 0, 0.3, explore=True, noise_ticks=3), None, id="exploring"),
        pytest.param(EpisodeSpec(PEG, 0, "probe", 12, 0.3), None, id="probe"),
    ],
)
def test_an_episode_on_the_twin_is_local_runner_s_bit_for_bit(spec, success, base, peg, twin, specialist) -> None:
    actor = None if spec.t_base is None else specialist
    runner = LocalRunner([peg], base, BinaryReward, features=FEATURES)
    (expected,) = runner.run([spec], actor)
    twin.residual = actor
    carried = carry_out(twin, controller_of(base, peg, FEATURES), spec, peg.max_steps)
    assert_same(carried.episode, expected)
    assert success in (None, expected.success)
    assert expected.residual.any() == (actor is not None)
    assert carried.report.missing == ()


def test_many_little_episodes_are_local_runner_s_bit_for_bit() -> None:
    expected = local_episodes(12)
    assert {episode.success for episode in expected} == {True, False}
    for episode in expected:
        assert_same(point(PointBody(), episode.spec).episode, episode)


# -- orders and ends -------------------------------------------------------------------------------


@pytest.mark.parametrize("max_steps", [1, 4])
def test_time_is_up_after_so_many_actions(max_steps: int) -> None:
    body = PointBody()
    carried = point(body, max_steps=max_steps)
    assert len(body.sent) == len(carried.episode) == carried.outcome.ticks == max_steps
    assert [step.closing for step in carried.steps] == [False] * max_steps + [True]
    assert (carried.episode.terminated, carried.episode.truncated, carried.episode.success) == (False, True, False)
    assert not carried.episode.voided


def test_a_success_with_the_last_action_in_time_is_one() -> None:
    carried = point(PointBody(), max_steps=undisturbed().outcome.ticks)
    assert carried.episode.success
    assert carried.episode.terminated
    assert not carried.episode.truncated


def test_the_operator_s_success_ends_the_episode_and_pays_the_last_action() -> None:
    body = PointBody()
    body.planned[3] = Orders(verdict="success")
    episode = point(body).episode
    assert episode.reward.tolist() == [0, 0, 1]
    assert (episode.success, episode.terminated, episode.truncated) == (True, True, False)
    assert not episode.environment_success


def test_the_operator_s_failure_ends_the_episode_for_good() -> None:
    body = PointBody()
    body.planned[3] = Orders(verdict="failure")
    episode = point(body).episode
    assert len(episode) == 3
    assert not episode.reward.any()
    assert (episode.success, episode.terminated, episode.truncated) == (False, True, False)
    assert not episode.voided


def test_the_operator_s_failure_outweighs_the_reward_s_success() -> None:
    body, expected = PointBody(), undisturbed().episode
    body.planned[len(expected)] = Orders(verdict="failure")
    episode = point(body).episode
    assert len(episode) == len(expected)
    assert not episode.reward.any()
    assert not episode.success
    assert episode.environment_success


@pytest.mark.parametrize("verdict", ["success", "failure"])
def test_a_verdict_before_the_first_action_is_on_nothing(verdict: str) -> None:
    body = PointBody()
    body.planned[0] = Orders(verdict=verdict)
    carried = point(body)
    assert carried.outcome.voided
    assert not carried.outcome.success
    assert "first action" in carried.outcome.reason
    assert len(carried.episode) == 0


@pytest.mark.parametrize(
    ("orders", "reason"), [(Orders(stopped=True), "emergency stop"), (Orders(verdict="void"), "voided")]
)
def test_an_episode_that_the_operator_breaks_off_is_void_and_nothing_more_is_sent(orders: Orders, reason: str) -> None:
    body, whole = PointBody(), undisturbed()
    body.planned[4] = orders
    carried = point(body)
    assert len(body.sent) == 4
    assert carried.outcome.voided
    assert reason in carried.outcome.reason
    assert_same_rows(carried.steps, whole.steps[:4])
    assert carried.episode.voided
    assert carried.episode.action.tobytes() == whole.episode.action[:4].tobytes()
    assert reason in carried.report.reason


@pytest.mark.parametrize("verdict", ["", "success", "failure"])
def test_the_emergency_stop_outweighs_every_verdict(verdict: str) -> None:
    body = PointBody()
    body.planned[undisturbed().outcome.ticks] = Orders(stopped=True, verdict=verdict)
    outcome = point(body).outcome
    assert outcome.voided
    assert not outcome.success


def test_a_human_s_command_is_executed_within_the_limits_and_marked() -> None:
    body = PointBody()
    for tick in (2, 3):
        body.planned[tick] = Orders(intervention=np.array([-5.0, 0.5, 0.0]))
    start = body.first(POINT.seed).proprio
    box = np.array([[start[0] - 0.05, -1, -1], [1, 1, 1]], np.float32)
    carried = point(body, workspace=box)
    episode = carried.episode
    assert np.flatnonzero(episode.intervention).tolist() == [2, 3]
    assert np.flatnonzero(episode.source == EXPERT_TICK).tolist() == [2, 3]
    assert (episode.source[[0, 1, 4]] == BASE_TICK).all()
    assert episode.proprio[:, 0].min() >= box[0, 0] - 1e-6
    np.testing.assert_array_equal(episode.action[2:4, 1], 0.5)
    assert (np.abs(episode.action) <= 1).all()
    assert all(np.array_equal(a, b) for a, b in zip(body.sent, episode.action, strict=True))
    assert not np.array_equal(episode.base_action[2], episode.action[2])  # what the base meant to do is kept


def test_nobody_drives_the_closing_row() -> None:
    body, ticks = PointBody(), 4
    body.planned[ticks] = Orders(intervention=np.ones(3))
    closing = point(body, max_steps=ticks).steps[-1]
    assert closing.closing
    assert not closing.intervention
    assert closing.decided.source == BASE_TICK
