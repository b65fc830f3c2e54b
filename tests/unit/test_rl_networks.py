"""Actor, critics and the density of actions, against independent arithmetic."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pld_core.rl import networks
from pld_core.rl.config import LearnerConfig
from pld_core.rl.losses import executed_log_density, propose
from pld_core.rl.optim import adamw, init_adam, polyak

SMALL = LearnerConfig(hidden=(8, 8))


def numpy_trunk(params: dict, state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """The network again, written for one row, concatenated input and no broadcasting."""
    first = params["layer0"]
    weight = np.concatenate([first["state"], first["action"]])
    x = np.concatenate([state, action]).astype(np.float64)
    for i in range(sum(k.startswith("layer") for k in params)):
        layer = params[f"layer{i}"]
        h = x @ (weight if i == 0 else np.asarray(layer["weight"], np.float64)) + layer["bias"]
        h = (h - h.mean()) / np.sqrt(h.var() + 1e-6)
        x = np.tanh(h * layer["scale"] + layer["offset"])
    return x


def randomised(params: dict, seed: int) -> dict:
    """Every array replaced by noise, so that no zero or one hides a mistake."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), jnp.float32), params)


def test_critic_values_against_numpy():
    critics = randomised(networks.init_critics(jax.random.PRNGKey(0), SMALL, 3, 2), 1)
    rng = np.random.default_rng(0)
    state, action = rng.normal(size=(4, 3)).astype(np.float32), rng.uniform(-1, 1, (5, 4, 4)).astype(np.float32)
    values = jax.jit(networks.critic_values)(critics, jnp.asarray(state), jnp.asarray(action))
    assert values.shape == (2, 5, 4)
    critics = jax.tree.map(np.asarray, critics)
    for e in range(2):
        critic = critics[f"critic{e}"]
        for n in range(5):
            for b in range(4):
                hidden = numpy_trunk(critic, state[b], action[n, b])
                expected = hidden @ np.asarray(critic["head"]["weight"]) + float(critic["head"]["bias"])
                assert float(values[e, n, b]) == pytest.approx(expected, abs=2e-5)


def test_a_critic_sees_the_action_and_its_departure_from_the_base():
    config = LearnerConfig(residual_scale=0.2)
    base, action = jnp.array([[0.5, -0.5]]), jnp.array([[[0.6, -0.5]], [[-1.0, 1.0]]])
    seen = networks.critic_view(config, base, action)
    np.testing.assert_allclose(seen, [[[0.6, -0.5, 0.5, 0.0]], [[-1.0, 1.0, -2.0, 2.0]]], atol=1e-6)  # clipped at 2
    without_base = LearnerConfig(residual=False)
    np.testing.assert_array_equal(networks.critic_view(without_base, base, action), action)


def test_the_two_critics_start_different_and_near_zero():
    critics = networks.init_critics(jax.random.PRNGKey(0), LearnerConfig(), 10, 7)
    q = networks.critic_values(critics, jnp.ones((3, 10)), jnp.zeros((3, 14)))
    assert not np.allclose(q[0], q[1])
    assert np.abs(q).max() < 0.3


def test_actor_distribution_against_numpy():
    actor = randomised(networks.init_actor(jax.random.PRNGKey(0), SMALL, 3, 2), 2)
    state, base = np.array([[0.1, -2.0, 0.7]], np.float32), np.array([[0.5, -0.25]], np.float32)
    mean, log_std = networks.actor_distribution(SMALL, actor, jnp.asarray(state), jnp.asarray(base))
    out = numpy_trunk(actor, state[0], base[0]) @ np.asarray(actor["head"]["weight"]) + actor["head"]["bias"]
    np.testing.assert_allclose(mean[0], out[:2], atol=1e-5)
    np.testing.assert_allclose(log_std[0], -5.0 + 6.0 / (1.0 + np.exp(-out[2:])), atol=1e-5)


def test_the_first_mode_is_exactly_zero_and_its_spread_as_configured():
    config = LearnerConfig(init_log_std=-0.5)
    actor = networks.init_actor(jax.random.PRNGKey(0), config, 20, 7)
    state = 5.0 * jax.random.normal(jax.random.PRNGKey(1), (64, 20))
    mean, log_std = networks.actor_distribution(config, actor, state, jnp.ones((64, 7)))
    assert (np.asarray(mean) == 0.0).all()
    np.testing.assert_allclose(log_std, -0.5, atol=1e-6)


def test_an_actor_without_base_does_not_see_it():
    config = LearnerConfig(hidden=(8,), residual=False)
    actor = randomised(networks.init_actor(jax.random.PRNGKey(0), config, 3, 2), 3)
    state = jnp.ones((1, 3))
    a, b = (networks.actor_distribution(config, actor, state, jnp.full((1, 2), v))[0] for v in (0.0, 1.0))
    np.testing.assert_array_equal(a, b)


def test_combined_action():
    base, u = jnp.array([0.9, -0.5, 0.0]), jnp.array([0.5, -0.5, -1.0])
    np.testing.assert_allclose(networks.combine(base, u, 0.5), [1.0, -0.75, -0.5])
    np.testing.assert_allclose(networks.combine(base, u, 0.5, residual=False), [0.5, -0.5, -1.0])
    np.testing.assert_array_equal(networks.combine(base, u, 0.0), base)


def test_normaliser_clips_outliers():
    normalizer = {"mean": jnp.array([1.0, 0.0]), "inverse_std": jnp.array([2.0, 1.0])}
    np.testing.assert_allclose(networks.normalise(normalizer, jnp.array([[2.0, 1e6]])), [[2.0, 10.0]])


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.5)])
def test_residual_density_integrates_to_one(mean, log_std):
    u = np.linspace(-0.999999, 0.999999, 400_001)
    noise = (np.arctanh(u) - mean) / math.exp(log_std)
    shape = (len(u), 1)
    found, log_density = networks.squash(
        jnp.full(shape, mean), jnp.full(shape, log_std), jnp.asarray(noise[:, None], jnp.float32)
    )
    np.testing.assert_allclose(found[:, 0], u, atol=1e-5)
    assert np.trapezoid(np.exp(np.asarray(log_density, np.float64)), u) == pytest.approx(1.0, abs=5e-3)


def test_density_stays_finite_far_out():
    u, log_density = networks.squash(jnp.full((1, 1), 30.0), jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    assert float(u[0, 0]) == 1.0
    assert math.isfinite(float(log_density[0]))


@pytest.mark.parametrize("xi", [1.0, 0.3])
def test_executed_density_by_monte_carlo(xi):
    """Importance weights must measure volume: the mean of 1{a in box} / p(a) is the box's volume."""
    config = LearnerConfig(hidden=(8,))
    actor = networks.init_actor(jax.random.PRNGKey(0), config, 3, 2)
    actor["head"]["bias"] = actor["head"]["bias"].at[:2].set(jnp.array([0.3, -0.2]))
    state, base = jnp.array([[0.3, -0.2, 0.5]]), jnp.array([[0.05, -0.1]])
    samples = jax.jit(lambda key: propose(config, actor, state, base, key, 200_000, xi))(jax.random.PRNGKey(1))
    log_density = executed_log_density(config, samples.log_density, 2, xi)
    inside = (np.abs((np.asarray(samples.actions) - np.asarray(base)) / xi) < 0.8).all(-1)
    volume = (inside / np.exp(np.asarray(log_density))).mean()
    assert volume == pytest.approx((1.6 * xi) ** 2, rel=0.03)


def test_adamw_against_optax():
    optax = pytest.importorskip("optax")
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "b": jnp.asarray(rng.normal(size=5), jnp.float32)}
    reference = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=0.1))
    theirs, state = params, reference.init(params)
    mine, moments = params, init_adam(params)
    update, step = jax.jit(reference.update), jax.jit(lambda g, m, p: adamw(g, m, p, 1e-2, 0.1, 1.0))
    for i in range(5):
        scale = 10.0 if i % 2 else 0.01  # with and without the clip
        grads = jax.tree.map(lambda x, s=scale: jnp.asarray(rng.normal(0, s, x.shape), jnp.float32), params)
        updates, state = update(grads, state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        mine, moments, norm = step(grads, moments, mine)
        assert float(norm) == pytest.approx(math.sqrt(sum(float((g**2).sum()) for g in grads.values())), rel=1e-5)
        for name in params:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=2e-5, atol=1e-6)


def test_polyak():
    assert float(polyak(jnp.float32(1.0), jnp.float32(3.0), 0.25)) == 1.5
