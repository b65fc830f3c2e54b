"""The learner as a whole: exact first action, determinism, resuming, known values, a toy task."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from pld_core.checkpoint import load_checkpoint, save_checkpoint
from pld_core.data.replay import Batch, ReplayBuffer, state_moments
from pld_core.errors import CheckpointError, ConfigError, ContractError, NonFiniteError, UnknownNameError
from pld_core.rl.actor import LearnerActor
from pld_core.rl.config import LearnerConfig
from pld_core.rl.learner import Learner
from pld_core.rl.presets import algorithm, algorithm_names
from pld_core.types import Episode, EpisodeSpec

SMALL = LearnerConfig(hidden=(16, 16), batch_size=8, calql_actions=3)


def random_batches(k: int, size: int, state_dim: int = 5, action_dim: int = 2, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.uniform(-1, 1, (k, size, *shape)).astype(np.float32)

    return Batch(
        state=draw(state_dim),
        base_action=draw(action_dim),
        action=draw(action_dim),
        reward=(draw() > 0.8).astype(np.float32),
        discount=np.full((k, size), 0.99, np.float32),
        next_state=draw(state_dim),
        next_base_action=draw(action_dim),
        mc_return=np.abs(draw()),
        images={},
        next_images={},
    )


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def learner() -> Learner:
    return Learner(SMALL, 5, 2)


# -- updates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["update", "calql_update"])
def test_equal_inputs_give_equal_bits(learner, kind):
    ends = []
    for _ in range(2):
        state = learner.init(3)
        for seed in range(2):
            state, metrics = getattr(learner, kind)(state, random_batches(4, 8, seed=seed), 0.3)
        ends.append((state, metrics))
    assert same(*ends)
    assert all(np.isfinite(value) for value in ends[0][1].values())


def test_one_call_is_as_good_as_two(learner):
    whole = random_batches(4, 8)
    once, _ = learner.update(learner.init(0), whole, 0.3)
    state = learner.init(0)
    for start in (0, 2):
        state, _ = learner.update(state, jax.tree.map(lambda x, s=start: x[s : s + 2], whole), 0.3)
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5)


def test_critics_learn_twice_as_often_as_the_actor(learner):
    state, metrics = learner.update(learner.init(0), random_batches(4, 8), 0.3)
    assert int(state.step) == 4
    assert int(state.critic_moments["count"]) == 4
    assert int(state.actor_moments["count"]) == 2
    assert {"critic_loss", "actor_loss", "entropy", "temperature", "q_data"} <= set(metrics)


def test_calql_can_leave_the_actor_alone():
    learner = Learner(dataclasses.replace(SMALL, calql_updates_actor=False), 5, 2)
    before = learner.init(0)
    actor = jax.tree.map(np.array, before.actor)
    after, metrics = learner.calql_update(before, random_batches(2, 8), 0.3)
    assert same(actor, after.actor)
    assert {"calql_loss", "calql_bound_rate", "calql_gap"} <= set(metrics)


def test_temperature_stays_above_its_floor():
    config = dataclasses.replace(
        SMALL, init_temperature=0.11, min_temperature=0.1, temperature_learning_rate=0.5, target_entropy=-50.0
    )
    learner = Learner(config, 5, 2)
    state, _ = learner.update(learner.init(0), random_batches(8, 8), 0.3)
    assert np.exp(state.log_temperature) == pytest.approx(0.1, rel=1e-5)


def test_wrong_batches_are_refused(learner):
    state = learner.init(0)
    with pytest.raises(ContractError, match="multiple of critic_actor_ratio"):
        learner.update(state, random_batches(3, 8), 0.3)
    with pytest.raises(ContractError, match="sample_many"):
        learner.update(state, jax.tree.map(lambda x: x[0], random_batches(2, 8)), 0.3)
    with pytest.raises(ContractError, match="actions"):
        learner.update(state, random_batches(2, 8, action_dim=3), 0.3)
    with pytest.raises(ConfigError, match="xi > 0"):
        learner.calql_update(state, random_batches(2, 8), 0.0)


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": 0.0},
        {"batch_size": 0},
        {"residual_l2": -1.0},
        {"hidden": ()},
        {"encoder": "vit"},
        {"actor_q": "max"},
        {"value_range": (1.0, 0.0)},
        {"backup_entropy": True},
        {"init_log_std": 3.0},
        {"init_temperature": 0.1, "min_temperature": 0.2},
    ],
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(ConfigError):
        LearnerConfig(**options)


# -- normaliser, actor, checkpoint ------------------------------------------------------------------


def test_the_normaliser_is_applied_to_updates_and_actions(learner):
    """Shifted and scaled data with the matching normaliser are the same learning problem."""
    mean, std = np.arange(5, dtype=np.float32), np.full(5, 4.0, np.float32)
    plain = random_batches(2, 8)
    moved = plain._replace(state=plain.state * std + mean, next_state=plain.next_state * std + mean)
    a, _ = learner.update(learner.init(0), plain, 0.3)
    b, _ = learner.update(learner.with_normalizer(learner.init(0), mean, std), moved, 0.3)
    for x, y in zip(jax.tree.leaves(a.critic), jax.tree.leaves(b.critic), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)
    acts = [
        LearnerActor(learner, learner.actor_params(s)).act(x, np.zeros((8, 2)), {}, None)
        for s, x in ((a, plain.state[0]), (b, moved.state[0]))
    ]
    np.testing.assert_allclose(*acts, atol=1e-4)


def test_a_constant_input_does_not_blow_up(learner):
    state = learner.with_normalizer(learner.init(0), np.zeros(5), np.zeros(5))
    assert float(state.normalizer["inverse_std"].max()) <= 1e3 + 1e-3
    with pytest.raises(ContractError, match="normaliser"):
        learner.with_normalizer(state, np.zeros(4), np.zeros(4))
    with pytest.raises(NonFiniteError):
        learner.with_normalizer(state, np.full(5, np.nan), np.ones(5))


def test_every_group_of_the_state_weighs_the_same():
    learner = Learner(LearnerConfig(hidden=(8,), state_groups=(1, 4)), 5, 2)
    state = learner.with_normalizer(learner.init(0), np.zeros(5), np.full(5, 2.0))
    scaled = np.full(5, 2.0) * np.asarray(state.normalizer["inverse_std"])  # one standard deviation of each input
    assert (scaled[:1] ** 2).sum() == pytest.approx((scaled[1:] ** 2).sum(), rel=1e-5)
    assert (scaled**2).sum() == pytest.approx(5.0, rel=1e-5)
    with pytest.raises(ConfigError, match="state_groups"):
        Learner(LearnerConfig(state_groups=(1, 3)), 5, 2)


def test_a_new_specialist_leaves_the_base_alone(learner):
    actor = LearnerActor(learner, learner.actor_params(learner.init(0)))
    residual = actor.act(np.full((3, 5), 7.0), np.ones((3, 2)), {}, None)
    assert residual.shape == (3, 2)
    assert (residual == 0.0).all()


def test_a_lane_does_not_depend_on_its_neighbours(learner):
    state, _ = learner.update(learner.init(0), random_batches(2, 8), 0.3)
    actor = LearnerActor(learner, learner.actor_params(state), min_lanes=8)
    rng = np.random.default_rng(0)
    states, base = rng.normal(size=(7, 5)), rng.uniform(-1, 1, (7, 2))
    seeds = np.array([5, 5, 9, 0, 2**32 - 1, 3, 1], np.uint32)
    together = actor.act(states, base, {}, seeds)
    assert together.dtype == np.float32
    assert np.abs(together).max() <= 1.0
    for i in range(7):
        alone = actor.act(states[i : i + 1], base[i : i + 1], {}, seeds[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], atol=1e-6)
    shared = actor.act(states[[0, 0]], base[[0, 0]], {}, seeds[:2])
    np.testing.assert_allclose(shared[0], shared[1], atol=1e-6)  # equal seeds, equal noise
    assert np.abs(together - actor.act(states, base, {}, seeds + 1)).max() > 0.05


def test_the_actor_checks_what_it_gets(learner):
    actor = LearnerActor(learner, learner.actor_params(learner.init(0)))
    with pytest.raises(ContractError, match="base_action"):
        actor.act(np.zeros((2, 5)), np.zeros((2, 3)), {}, None)
    with pytest.raises(NonFiniteError, match="lane 1"):
        actor.act(np.array([np.zeros(5), np.full(5, np.nan)]), np.zeros((2, 2)), {}, None)
    assert actor.act(np.zeros((0, 5)), np.zeros((0, 2)), {}, None).shape == (0, 2)


def test_handed_out_weights_survive_the_next_update(learner):
    state, _ = learner.update(learner.init(0), random_batches(2, 8), 0.3)
    actor = LearnerActor(learner, learner.actor_params(state))
    before = actor.act(np.ones((1, 5)), np.zeros((1, 2)), {}, None)
    state, _ = learner.update(state, random_batches(2, 8, seed=1), 0.3)
    np.testing.assert_array_equal(actor.act(np.ones((1, 5)), np.zeros((1, 2)), {}, None), before)
    later = LearnerActor(learner, learner.actor_params(state)).act(np.ones((1, 5)), np.zeros((1, 2)), {}, None)
    assert not np.array_equal(later, before)


def test_resuming_is_exact_to_the_bit(learner, tmp_path):
    state, _ = learner.update(learner.init(0), random_batches(2, 8), 0.3)
    save_checkpoint(tmp_path / "c", state.to_arrays(), {})
    straight, _ = learner.update(state, random_batches(2, 8, seed=1), 0.3)
    restored = learner.init(99).with_arrays(load_checkpoint(tmp_path / "c")[0])
    resumed, _ = learner.update(restored, random_batches(2, 8, seed=1), 0.3)
    assert same(straight, resumed)


def test_a_checkpoint_of_other_settings_is_refused(learner):
    arrays = learner.init(0).to_arrays()
    wider = Learner(dataclasses.replace(SMALL, hidden=(32, 16)), 5, 2).init(0)
    with pytest.raises(CheckpointError, match="settings"):
        wider.with_arrays(arrays)
    deeper = Learner(dataclasses.replace(SMALL, hidden=(16, 16, 16)), 5, 2).init(0)
    with pytest.raises(CheckpointError, match="lacks"):
        deeper.with_arrays(arrays)
    with pytest.raises(CheckpointError, match="do not have"):
        learner.init(0).with_arrays(deeper.to_arrays())


# -- known values and a task ------------------------------------------------------------------------


def toy_episodes(actor: LearnerActor | None, lanes: int, seed: int, xi: float, explore: bool = False) -> list[Episode]:
    """A point in the plane, driven to a goal by a base that steers with a constant error and misses."""
    horizon, step, radius, error = 25, 0.15, 0.06, np.array([0.5, -0.4])
    rng = np.random.default_rng(seed)
    goal, position = rng.uniform(-1, 1, (lanes, 2)), rng.uniform(-1, 1, (lanes, 2))
    states, bases, residuals, actions, hits = [], [], [], [], []
    for _ in range(horizon + 1):
        away = (goal - position) / step
        base = np.clip(away / np.maximum(1.0, np.abs(away).max(1, keepdims=True)) + error, -1, 1).astype(np.float32)
        state = np.concatenate([position, goal - position], 1).astype(np.float32)
        seeds = (rng.integers(0, 2**32, lanes)).astype(np.uint32) if explore else None
        residual = np.zeros_like(base) if actor is None else actor.act(state, base, {}, seeds)
        action = np.clip(base + xi * residual, -1, 1)
        position = np.clip(position + step * action, -1.5, 1.5)
        for column, value in zip((states, bases, residuals, actions), (state, base, residual, action), strict=True):
            column.append(value)
        hits.append(np.linalg.norm(position - goal, axis=1) < radius)
    hit = np.array(hits[:horizon])
    episodes = []
    for i in range(lanes):
        success = bool(hit[:, i].any())
        ticks = int(hit[:, i].argmax()) + 1 if success else horizon
        reward = np.zeros(ticks, np.float32)
        reward[-1] = float(success)
        state, base = (np.stack([x[i] for x in column[: ticks + 1]]) for column in (states, bases))
        residual, action = (np.stack([x[i] for x in column[:ticks]]) for column in (residuals, actions))
        flags = np.zeros(ticks, np.uint8), np.zeros(ticks, bool), success, not success, success
        episodes.append(Episode(EpisodeSpec("toy", i), "", state, state, {}, base, residual, action, reward, *flags))
    return episodes


def success_rate(episodes: list[Episode]) -> float:
    return float(np.mean([e.success for e in episodes]))


def test_values_converge_to_powers_of_gamma():
    """One deterministic chain, the base alone (xi = 0): Q at k ticks before success is gamma^(k-1)."""
    gamma, ticks = 0.9, 8
    rows = np.linspace(-1, 1, ticks + 1, dtype=np.float32)[:, None]
    reward = np.zeros(ticks, np.float32)
    reward[-1] = 1.0
    episode = Episode(
        EpisodeSpec("chain", 0), "", rows, rows, {}, np.zeros((ticks + 1, 1), np.float32),
        np.zeros((ticks, 1), np.float32), np.zeros((ticks, 1), np.float32), reward,
        np.zeros(ticks, np.uint8), np.zeros(ticks, bool), True, False, True,
    )  # fmt: skip
    config = LearnerConfig(hidden=(32, 32), learning_rate=3e-3, polyak=0.05, init_temperature=0.01)
    buffer = ReplayBuffer(32, 1, 1, gamma=gamma)
    buffer.add(episode)
    learner = Learner(config, 1, 1)
    state, rng = learner.init(0), np.random.default_rng(0)
    for _ in range(6):
        state, _ = learner.update(state, buffer.sample_many(rng, 200, 32), 0.0)
    from pld_core.rl.networks import critic_values

    q = critic_values(state.critic["heads"], rows[:-1], np.zeros((ticks, 2), np.float32))
    expected = gamma ** np.arange(ticks - 1, -1, -1.0)
    np.testing.assert_allclose(q, np.broadcast_to(expected, (2, ticks)), atol=0.05)


def test_the_residual_learns_to_correct_a_base_that_always_misses():
    config = LearnerConfig(
        hidden=(64, 64), gamma=0.95, learning_rate=1e-3, temperature_learning_rate=1e-3, init_temperature=0.1
    )
    learner, xi = Learner(config, 4, 2), 0.8
    state, rng = learner.init(0), np.random.default_rng(0)
    buffer = ReplayBuffer(20_000, 4, 2, gamma=0.95)
    base_only = toy_episodes(None, 200, seed=1, xi=xi)
    assert success_rate(base_only) < 0.05
    for episode in base_only:
        buffer.add(episode)
    state = learner.with_normalizer(state, *state_moments(buffer))
    for round_number in range(5):
        actor = LearnerActor(learner, learner.actor_params(state))
        for episode in toy_episodes(actor, 20, seed=10 + round_number, xi=xi, explore=True):
            buffer.add(episode)
        state, _ = learner.update(state, buffer.sample_many(rng, 300, 128), xi)
    actor = LearnerActor(learner, learner.actor_params(state))
    assert success_rate(toy_episodes(actor, 100, seed=2, xi=xi)) > 0.9


def test_presets():
    assert set(algorithm_names()) == {"pld", "rlpd", "wsrl", "calql", "residual_sac"}
    assert algorithm("pld").residual
    assert not algorithm("rlpd").residual
    assert not algorithm("wsrl").offline_data
    assert algorithm("calql").calql_online
    assert not algorithm("residual_sac").calql_warmup
    with pytest.raises(UnknownNameError, match="Did you mean 'rlpd'"):
        algorithm("rldp")
