"""The image encoder: shapes, shared use, gradients and augmentation."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pld_core.data.replay import Batch
from pld_core.errors import ConfigError, ContractError
from pld_core.rl import encoder
from pld_core.rl.actor import LearnerActor
from pld_core.rl.config import LearnerConfig
from pld_core.rl.learner import Learner

CONFIG = LearnerConfig(encoder="resnet10", hidden=(16,), latent_dim=12, image_shift=2)
CAMERAS = {"wrist": (32, 32, 3), "front": (32, 48, 3)}


def frames(lead: tuple[int, ...], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, (*lead, *shape), dtype=np.uint8) for name, shape in CAMERAS.items()}


@pytest.mark.parametrize(("size", "stride", "kernel"), [(4, 1, 3), (4, 2, 3), (3, 2, 3), (2, 1, 3), (4, 2, 1)])
def test_small_map_convolution_equals_the_library_s(size, stride, kernel):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, size, size, 5)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(kernel, kernel, 5, 4)), jnp.float32)
    expected = jax.lax.conv_general_dilated(
        x, weights, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(encoder._conv(x, weights, stride), expected, atol=1e-4)


def test_random_shift_moves_by_at_most_the_margin():
    image = np.zeros((1, 9, 9, 3), np.uint8)
    image[0, 4, 4] = 255
    batch = np.repeat(image, 256, axis=0)
    moved = np.asarray(encoder.random_shift(CONFIG, jax.random.PRNGKey(0), {"wrist": batch})["wrist"])
    assert moved.dtype == np.uint8
    where = np.argwhere(moved[..., 0] == 255)
    assert len(where) == 256
    assert np.abs(where[:, 1:] - 4).max() == 2
    assert len(np.unique(where[:, 1:], axis=0)) == 25
    still = dataclasses.replace(CONFIG, image_shift=0)
    assert encoder.random_shift(still, jax.random.PRNGKey(0), {"wrist": batch})["wrist"] is batch


@pytest.mark.slow
def test_learning_from_images():
    learner = Learner(CONFIG, 3, 2, CAMERAS)
    state, size = learner.init(0), 4
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.uniform(-1, 1, (2, size, *shape)).astype(np.float32)

    batches = Batch(
        draw(3), draw(2), draw(2), np.abs(draw()), np.full((2, size), 0.9, np.float32), draw(3), draw(2),
        np.abs(draw()), frames((2, size)), frames((2, size), 1),
    )  # fmt: skip
    before = jax.tree.map(np.array, state.critic["encoder"])
    state, metrics = learner.update(state, batches, 0.5)
    assert all(np.isfinite(value) for value in metrics.values())
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, state.critic["encoder"])
    assert all(jax.tree.leaves(changed))  # the critic's loss trains every part of the encoder

    actor = LearnerActor(learner, learner.actor_params(state))
    base = np.zeros((3, 2), np.float32)
    one, other = (actor.act(np.zeros((3, 3)), base, frames((3,), s), None) for s in (5, 6))
    assert np.abs(one - other).max() > 0  # the actor sees the images
    with pytest.raises(ContractError, match="wrist"):
        actor.act(np.zeros((3, 3)), base, {"front": frames((3,))["front"]}, None)
    with pytest.raises(ContractError, match="front, wrist"):
        learner.update(state, batches._replace(images={}), 0.5)

    frozen = Learner(dataclasses.replace(CONFIG, train_encoder=False), 3, 2, CAMERAS)
    state = frozen.init(0)
    before = jax.tree.map(np.array, state.critic["encoder"])
    state, _ = frozen.update(state, batches, 0.5)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, state.critic["encoder"]))


def test_no_gradient_flows_from_the_actor_into_the_encoder():
    """The actor step only ever receives the encoded state, detached."""
    parameters = encoder.init_encoder(jax.random.PRNGKey(0), CONFIG, {"wrist": (32, 32, 3)})
    frozen = dataclasses.replace(CONFIG, train_encoder=False)

    def total(p):
        return encoder.encode(frozen, p, jnp.zeros((1, 3)), {"wrist": frames((1,))["wrist"]}).sum()

    grads = jax.jit(jax.grad(total))(parameters)
    assert all(float(jnp.abs(g).max()) == 0.0 for g in jax.tree.leaves(grads))


def test_an_image_encoder_needs_cameras():
    with pytest.raises(ConfigError, match="cameras"):
        Learner(CONFIG, 3, 2)
