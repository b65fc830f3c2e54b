"""SAC and Cal-QL losses against numbers worked out by hand and against plain numpy."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pld_core.data.replay import Batch
from pld_core.rl import losses, networks
from pld_core.rl.config import LearnerConfig
from pld_core.rl.losses import Proposals

PLAIN = LearnerConfig(hidden=(8,), value_range=None)


def constant_critics(*values: float, state_dim: int = 3, action_dim: int = 1) -> dict:
    """Critics that answer the same everywhere."""
    config = LearnerConfig(hidden=(8,), critics=len(values))
    critics = networks.init_critics(jax.random.PRNGKey(0), config, state_dim, action_dim)
    for i, value in enumerate(values):
        critics[f"critic{i}"]["head"] = {"weight": jnp.zeros(8), "bias": jnp.float32(value)}
    return critics


def random_critics(seed: int, state_dim: int = 3, action_dim: int = 2, config: LearnerConfig = PLAIN) -> dict:
    critics = networks.init_critics(jax.random.PRNGKey(seed), config, state_dim, action_dim)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.7, x.shape), jnp.float32), critics)


def make_batch(size: int, action_dim: int = 1, seed: int = 0, **columns) -> Batch:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.uniform(-0.4, 0.4, (size, *shape)), jnp.float32)

    defaults = {
        "state": draw(3),
        "base_action": draw(action_dim),
        "action": draw(action_dim),
        "reward": jnp.zeros(size),
        "discount": jnp.full(size, 0.9),
        "next_state": draw(3),
        "next_base_action": draw(action_dim),
        "mc_return": jnp.zeros(size),
        "images": {},
        "next_images": {},
    }
    return Batch(**(defaults | {k: jnp.asarray(v, jnp.float32) for k, v in columns.items()}))


def proposals(n: int, size: int, action_dim: int = 1, log_density: float = 0.0, seed: int = 1) -> Proposals:
    rng = np.random.default_rng(seed)
    actions = jnp.asarray(rng.uniform(-1, 1, (n, size, action_dim)), jnp.float32)
    return Proposals(actions, jnp.full((n, size), log_density))


# -- SAC -------------------------------------------------------------------------------------------


def test_target_is_the_smaller_value_discounted_truncation_included_termination_not():
    batch = make_batch(4, reward=[0.0, 1.0, 0.0, 0.5], discount=[0.9, 0.0, 0.9, 0.81])
    #                             running, success,  truncated (discount stays), two-step return
    wanted = losses.td_target(PLAIN, constant_critics(0.7, 0.5), batch, batch.next_state, proposals(1, 4))
    np.testing.assert_allclose(wanted, [0.45, 1.0, 0.45, 0.5 + 0.81 * 0.5], rtol=1e-6)


def test_target_is_clipped_to_the_reward_range():
    config = LearnerConfig(hidden=(8,))
    batch = make_batch(3, reward=[1.0, 0.0, 0.0], discount=[0.9, 0.9, 0.0])
    for value, expected in ((0.5, [1.0, 0.45, 0.0]), (-2.0, [0.0, 0.0, 0.0]), (3.0, [1.0, 1.0, 0.0])):
        wanted = losses.td_target(config, constant_critics(value, value), batch, batch.next_state, proposals(1, 3))
        np.testing.assert_allclose(wanted, expected, rtol=1e-6)


def test_entropy_in_the_backup_gets_discount_and_mask():
    config = LearnerConfig(hidden=(8,), value_range=None, backup_entropy=True)
    batch = make_batch(2, reward=[0.0, 1.0], discount=[0.9, 0.0])
    next_actions = proposals(1, 2, log_density=-3.0)
    wanted = losses.td_target(config, constant_critics(0.5, 0.6), batch, batch.next_state, next_actions, 0.1)
    np.testing.assert_allclose(wanted, [0.9 * (0.5 + 0.3), 1.0], rtol=1e-6)


def test_target_takes_the_best_of_several_next_actions():
    critics, batch, next_actions = random_critics(3), make_batch(5, 2), proposals(4, 5, 2)
    seen = networks.critic_view(PLAIN, batch.next_base_action, next_actions.actions)
    q = np.asarray(networks.critic_values(critics, batch.next_state, seen))  # [2, 4, 5]
    expected = 0.9 * q.min(0).max(0)
    np.testing.assert_allclose(
        losses.td_target(PLAIN, critics, batch, batch.next_state, next_actions), expected, rtol=1e-5
    )


def test_critic_loss_by_hand():
    wanted = jnp.array([0.0, 1.0])
    loss, metrics = losses.sac_critic_loss(PLAIN, constant_critics(0.2, 0.6), jnp.zeros((2, 3)), make_batch(2), wanted)
    assert float(loss) == pytest.approx((0.2**2 + 0.8**2 + 0.6**2 + 0.4**2) / 4, rel=1e-6)
    assert float(metrics["q_data"]) == pytest.approx(0.4)


def test_actor_loss_by_hand():
    actor = networks.init_actor(jax.random.PRNGKey(0), PLAIN, 3, 1)  # mean 0, std 1
    noise = np.array([[0.5], [-1.0]])
    loss, metrics = losses.actor_loss(
        PLAIN, actor, constant_critics(0.3, 0.8), jnp.zeros((2, 3)), make_batch(2), jnp.asarray(noise), 0.2, 0.5
    )
    log_density = -0.5 * noise**2 - 0.5 * math.log(2 * math.pi) - np.log(1 - np.tanh(noise) ** 2)
    assert float(loss) == pytest.approx(float((0.2 * log_density).mean() - 0.3), rel=1e-5)
    assert float(metrics["entropy"]) == pytest.approx(-log_density.mean(), rel=1e-5)
    mean_q = LearnerConfig(hidden=(8,), actor_q="mean")
    loss, _ = losses.actor_loss(
        mean_q, actor, constant_critics(0.3, 0.8), jnp.zeros((2, 3)), make_batch(2), jnp.asarray(noise), 0.0, 0.5
    )
    assert float(loss) == pytest.approx(-0.55, rel=1e-5)


def test_actor_gradient_climbs_the_critic():
    """A small step along the negative gradient must raise the smaller critic's value."""
    critics, batch = random_critics(5), make_batch(64, 2)
    actor = networks.init_actor(jax.random.PRNGKey(1), PLAIN, 3, 2)
    noise = jax.random.normal(jax.random.PRNGKey(2), (64, 2))

    def loss(actor):
        return losses.actor_loss(PLAIN, actor, critics, batch.state, batch, noise, 0.0, 0.5)[0]

    loss = jax.jit(loss)
    grads = jax.jit(jax.grad(loss))(actor)
    squared = sum(float((g**2).sum()) for g in jax.tree.leaves(grads))
    step = 1e-3 / math.sqrt(squared)
    moved = jax.tree.map(lambda p, g: p - step * g, actor, grads)
    assert float(loss(actor) - loss(moved)) == pytest.approx(step * squared, rel=0.05)


def test_no_gradient_reaches_the_actor_through_a_residual_of_scale_zero():
    critics, batch = random_critics(5), make_batch(8, 2)
    actor = networks.init_actor(jax.random.PRNGKey(1), PLAIN, 3, 2)

    def loss(actor):
        return losses.actor_loss(PLAIN, actor, critics, batch.state, batch, jnp.zeros((8, 2)), 0.0, 0.0)[0]

    assert all(float(jnp.abs(g).max()) == 0.0 for g in jax.tree.leaves(jax.jit(jax.grad(loss))(actor)))


def test_residual_penalty():
    actor = networks.init_actor(jax.random.PRNGKey(0), PLAIN, 3, 1)
    noise = jnp.array([[0.5], [-1.0]])
    config = LearnerConfig(hidden=(8,), value_range=None, residual_l2=2.0)
    loss, _ = losses.actor_loss(
        config, actor, constant_critics(0, 0), jnp.zeros((2, 3)), make_batch(2), noise, 0.0, 0.5
    )  # fmt: skip
    assert float(loss) == pytest.approx(2.0 * float((np.tanh(np.asarray(noise)) ** 2).mean()), rel=1e-5)


def test_temperature_falls_while_the_policy_is_too_random():
    slope = jax.grad(losses.temperature_loss)
    assert float(slope(jnp.float32(0.0), jnp.float32(-1.0), -3.5)) == pytest.approx(2.5)  # descent lowers it
    assert float(slope(jnp.float32(0.0), jnp.float32(-5.0), -3.5)) == pytest.approx(-1.5)
    assert float(slope(jnp.log(0.1), jnp.float32(-1.0), -3.5)) == pytest.approx(0.25, rel=1e-5)


# -- Cal-QL ----------------------------------------------------------------------------------------


def test_calql_by_hand():
    """One action of each kind, A = 1, xi = 0.5, Q = 0.2 everywhere, return 0.6.

    random: 0.2 - log 0.5 = 0.893147
    pi(s):  max(0.2, 0.6) - (-1 - log 0.5) = 0.6 + 0.306853 = 0.906853
    pi(s'): 0.6 - (-2 - log 0.5) = 0.6 + 1.306853 = 1.906853
    logsumexp = 2.455408; minus Q(data) = 2.255408; TD = (0.2 - 0.5)^2 = 0.09
    """
    config = LearnerConfig(hidden=(8,), calql_alpha=2.0, value_range=None)
    batch = make_batch(1, mc_return=[0.6])
    loss, metrics = losses.calql_loss(
        config,
        constant_critics(0.2, 0.2),
        batch.state,
        batch,
        jnp.array([0.5]),
        jnp.zeros((1, 1, 1)),
        proposals(1, 1, log_density=-1.0),
        proposals(1, 1, log_density=-2.0),
        0.5,
    )
    assert float(metrics["calql_loss"]) == pytest.approx(2.255408, abs=1e-5)
    assert float(metrics["critic_loss"]) == pytest.approx(0.09, abs=1e-6)
    assert float(loss) == pytest.approx(0.09 + 2.0 * 2.255408, abs=1e-5)
    assert float(metrics["calql_bound_rate"]) == 1.0
    assert float(metrics["calql_gap"]) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("residual", [True, False])
def test_calql_against_loops(residual):
    n, size, dim, xi = 3, 4, 2, 0.4
    config = LearnerConfig(hidden=(8,), residual=residual, calql_alpha=1.5, value_range=None)
    critics = random_critics(7, config=config)
    returns = np.array([0.9, 0.0, 0.3, 2.0], np.float32)
    batch = make_batch(size, dim, seed=8, mc_return=returns)
    rng = np.random.default_rng(9)
    uniform = rng.uniform(-1, 1, (n, size, dim)).astype(np.float32)
    here, there = (
        Proposals(
            jnp.asarray(rng.uniform(-1, 1, (n, size, dim)), jnp.float32),
            jnp.asarray(rng.normal(0, 1, (n, size)), jnp.float32),
        )
        for _ in range(2)
    )
    wanted = jnp.asarray(rng.uniform(0, 1, size), jnp.float32)

    def q(e: int, b: int, action: np.ndarray) -> float:
        seen = networks.critic_view(config, batch.base_action[b : b + 1], action[None])
        return float(values({"critic0": critics[f"critic{e}"]}, batch.state[b : b + 1], seen)[0, 0])

    values = jax.jit(networks.critic_values)
    penalty, td, bound = [], [], []
    for e in range(2):
        for b in range(size):
            terms = [q(e, b, uniform[i, b]) - dim * math.log(0.5) for i in range(n)]
            for p in (here, there):
                for i in range(n):
                    value = q(e, b, np.asarray(p.actions)[i, b])
                    bound.append(value < returns[b])
                    density = float(p.log_density[i, b]) - (dim * math.log(xi) if residual else 0.0)
                    terms.append(max(value, float(returns[b])) - density)
            data = q(e, b, np.asarray(batch.action)[b])
            penalty.append(math.log(sum(math.exp(t) for t in terms)) - data)
            td.append((data - float(wanted[b])) ** 2)
    loss, metrics = losses.calql_loss(
        config, critics, batch.state, batch, wanted, jnp.asarray(uniform), here, there, xi
    )
    assert float(loss) == pytest.approx(np.mean(td) + 1.5 * np.mean(penalty), rel=1e-4)
    assert float(metrics["calql_bound_rate"]) == pytest.approx(np.mean(bound), rel=1e-5)


def test_next_state_actions_are_combined_with_the_next_base_action():
    actor = networks.init_actor(jax.random.PRNGKey(0), PLAIN, 3, 1)
    batch = make_batch(6, base_action=np.full((6, 1), -0.5), next_base_action=np.full((6, 1), 0.5))
    there = losses.propose(PLAIN, actor, batch.next_state, batch.next_base_action, jax.random.PRNGKey(1), 10, 0.1)
    assert np.abs(np.asarray(there.actions) - 0.5).max() <= 0.1 + 1e-6


def test_values_below_the_return_are_not_pushed_down():
    """With the bound in force everywhere, only random actions and the data carry a gradient."""
    config = LearnerConfig(hidden=(8,), value_range=None)
    critics, batch = random_critics(11), make_batch(4, 2, mc_return=np.full(4, 100.0))

    def penalty(critics, actions):
        here = Proposals(actions, jnp.zeros(actions.shape[:2]))
        uniform = jnp.zeros((2, 4, 2))
        return losses.calql_loss(config, critics, batch.state, batch, jnp.zeros(4), uniform, here, here, 0.5)[0]

    slope = jax.jit(jax.grad(penalty, argnums=1))(critics, proposals(2, 4, 2).actions)
    assert float(jnp.abs(slope).max()) == 0.0
