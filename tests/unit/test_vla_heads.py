"""Action heads and layers of CompactVLA against hand computations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pld_core.errors import ConfigError
from pld_core.types import ObservationSpec
from pld_core.vla import diffusion_head, flow_head, token_head
from pld_core.vla.instruction import MAX_TOKENS, PADDING, tokenise
from pld_core.vla.layers import dense
from pld_core.vla.lora import init_adapters, merge_adapters
from pld_core.vla.model import (
    CompactVLAConfig,
    ModelShape,
    action_loss,
    decode,
    identity_stats,
    init_params,
    patches,
    scale_grounding,
)
from pld_core.vla.training import TrainConfig, fit

_SMALL = CompactVLAConfig(horizon=3, width=48, token_width=48, token_bins=256)
_SHAPE = ModelShape.of(ObservationSpec({}, 6), 7, _SMALL)


def _stats(shape: ModelShape = _SHAPE) -> dict[str, np.ndarray]:
    return identity_stats(shape)


def test_flow_loss_by_hand() -> None:
    """One observation, velocity network reduced to its output bias: |bias - (noise - action)|^2."""
    params = jax.tree.map(jnp.zeros_like, flow_head.init(_SMALL, 4, 7, jax.random.key(0)))
    bias = np.linspace(-1, 1, 21, dtype=np.float32)
    params["velocity"]["b"] = jnp.asarray(bias)
    rng = np.random.default_rng(0)
    action, noise = rng.uniform(-1, 1, (1, 21)), rng.normal(size=(1, 21))
    conditioned = flow_head.condition(params, jnp.zeros((1, 4)))
    error = flow_head.matching_error(params, conditioned, jnp.asarray(action), jnp.asarray(noise), jnp.array([0.3]))
    assert float(error) == pytest.approx(np.mean((bias - (noise - action)) ** 2), rel=1e-5)


def test_flow_mixes_noise_at_one_and_data_at_zero() -> None:
    """With a network that returns what it is shown, the error reveals the mixture it was shown."""
    params = jax.tree.map(jnp.zeros_like, flow_head.init(_SMALL, 4, 7, jax.random.key(0)))
    params["noisy"]["w"] = jnp.eye(21, 48)
    params["velocity"]["w"] = jnp.eye(48, 21)
    action, noise = jnp.full((1, 21), 0.5), jnp.full((1, 21), 2.0)
    for time, mixed in ((0.0, 0.5), (1.0, 2.0), (0.25, 0.875)):
        error = flow_head.matching_error(params, jnp.zeros((1, 48)), action, noise, jnp.array([time]))
        assert float(error) == pytest.approx((mixed - 1.5) ** 2, rel=1e-5)


def test_flow_integrates_a_constant_velocity_exactly() -> None:
    params = jax.tree.map(jnp.zeros_like, flow_head.init(_SMALL, 4, 7, jax.random.key(0)))
    velocity = np.linspace(-0.9, 0.9, 21, dtype=np.float32)
    params["velocity"]["b"] = jnp.asarray(velocity)
    stats = {"action_mean": np.full(7, 0.1, np.float32), "action_std": np.full(7, 0.5, np.float32)}
    chunk = flow_head.sample(params, _SMALL, stats, jnp.zeros((2, 4)))
    np.testing.assert_allclose(chunk[1].ravel(), 0.1 - 0.5 * velocity, atol=1e-6)


def test_diffusion_loss_by_hand() -> None:
    """A network that returns its bias: |bias - (a noise - s action)|^2, a = cos(pi t / 2), s = sin(pi t / 2)."""
    params = jax.tree.map(jnp.zeros_like, diffusion_head.init(_SMALL, 4, 7, jax.random.key(0)))
    bias = np.linspace(-1, 1, 21, dtype=np.float32)
    params["velocity"]["b"] = jnp.asarray(bias)
    rng = np.random.default_rng(0)
    action, noise = rng.uniform(-1, 1, (1, 21)), rng.normal(size=(1, 21))
    error = diffusion_head.matching_error(
        params, jnp.zeros((1, 48)), jnp.asarray(action), jnp.asarray(noise), jnp.array([1 / 3])
    )
    wanted = np.mean((bias - (np.sqrt(0.75) * noise - 0.5 * action)) ** 2)
    assert float(error) == pytest.approx(wanted, rel=1e-5)


def test_diffusion_shows_the_network_data_at_zero_and_noise_at_one() -> None:
    params = jax.tree.map(jnp.zeros_like, diffusion_head.init(_SMALL, 4, 7, jax.random.key(0)))
    params["noisy"]["w"] = jnp.eye(21, 48)
    params["velocity"]["w"] = jnp.eye(48, 21)
    action, noise = jnp.full((1, 21), 0.5), jnp.full((1, 21), 2.0)
    for time, shown, v in ((0.0, 0.5, 2.0), (1.0, 2.0, -0.5), (0.5, 2.5 * 0.5**0.5, 1.5 * 0.5**0.5)):
        error = diffusion_head.matching_error(params, jnp.zeros((1, 48)), action, noise, jnp.array([time]))
        assert float(error) == pytest.approx((shown - v) ** 2, rel=1e-4), time


@pytest.mark.parametrize("steps", [1, 8])
def test_diffusion_arrives_where_the_true_velocity_leads(steps: int) -> None:
    """Of data that are one point, x0, the velocity at x_t is known: v = (a x_t - x0) / s."""
    config = CompactVLAConfig(horizon=3, width=48, flow_steps=steps)
    params = diffusion_head.init(config, 4, 7, jax.random.key(0))
    point = np.linspace(-0.9, 0.9, 21, dtype=np.float32)

    def true_velocity(params, conditioned, noisy, time):
        signal, share = diffusion_head.signal_and_noise(time)
        return (signal[:, None] * noisy - point) / share[:, None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion_head, "velocity", true_velocity)
        stats = {"action_mean": np.full(7, 0.1, np.float32), "action_std": np.full(7, 0.5, np.float32)}
        chunk = diffusion_head.sample(params, config, stats, jnp.zeros((2, 4)))
    np.testing.assert_allclose(chunk[1].ravel(), 0.1 + 0.5 * point, atol=1e-5)


@settings(max_examples=10)
@given(st.lists(st.floats(-1, 1), min_size=12, max_size=12), st.sampled_from([2, 16, 256]))
def test_tokens_round_trip_within_half_a_bin(values: list[float], bins: int) -> None:
    low, high = np.float32(-1), np.float32(1)
    tokens = token_head.encode_actions(jnp.array(values), low, high, bins)
    assert int(tokens.min()) >= 0
    assert int(tokens.max()) < bins
    error = np.abs(np.asarray(token_head.decode_tokens(tokens, low, high, bins)) - np.array(values))
    assert error.max() <= 1 / bins + 1e-6


def test_bin_centres_are_fixed_points_and_outliers_are_cut() -> None:
    low, high = jnp.array([-0.5, -1.0]), jnp.array([0.25, 1.0])
    tokens = jnp.tile(jnp.arange(256)[:, None], (1, 2))
    centres = token_head.decode_tokens(tokens, low, high, 256)
    np.testing.assert_array_equal(token_head.encode_actions(centres, low, high, 256), tokens)
    assert token_head.encode_actions(jnp.array([-0.9, 1.0]), low, high, 256).tolist() == [0, 255]


def test_token_logits_are_causal_and_greedy_decoding_agrees() -> None:
    params = token_head.init(_SMALL, 5, 7, jax.random.key(1))
    params["logits"]["w"] = params["logits"]["w"] * 30
    context = jax.random.normal(jax.random.key(2), (4, 5))
    chunk = token_head.sample(params, _SMALL, _stats(), context)
    tokens = token_head.encode_actions(chunk, -1.0, 1.0, 256).reshape(4, -1)
    logits = token_head.token_logits(params, _SMALL, context, tokens)
    np.testing.assert_array_equal(jnp.argmax(logits, axis=-1), tokens)
    changed = token_head.token_logits(params, _SMALL, context, tokens.at[:, 10].add(1) % 256)
    np.testing.assert_array_equal(logits[:, :11], changed[:, :11])
    assert np.abs(logits[:, 11:] - changed[:, 11:]).max() > 1e-3


def test_token_loss_is_the_mean_negative_log_likelihood() -> None:
    params = token_head.init(_SMALL, 5, 7, jax.random.key(1))
    context = jax.random.normal(jax.random.key(2), (2, 5))
    actions = jax.random.uniform(jax.random.key(3), (2, 3, 7), minval=-1)
    tokens = np.asarray(token_head.encode_actions(actions, -1.0, 1.0, 256)).reshape(2, -1)
    logits = np.asarray(token_head.token_logits(params, _SMALL, context, tokens), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    by_hand = -np.mean([log_p[b, k, tokens[b, k]] for b in range(2) for k in range(tokens.shape[1])])
    loss = token_head.loss(params, _SMALL, _stats(), context, actions, jax.random.key(0))
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)


class _HeadLoss:
    """Loss of an action head alone on fixed contexts; equal objects share the compiled step."""

    def __init__(self, shape: ModelShape) -> None:
        self.shape = shape

    def __call__(self, head, constants, batch, key):
        return action_loss({"head": head}, constants, self.shape, batch["context"], batch["chunks"], key)


@pytest.mark.parametrize(
    ("head", "steps", "bound"), [("flow", 1200, 0.06), ("tokens", 400, 0.06), ("diffusion", 1200, 0.06)]
)
def test_heads_overfit_one_batch(head: str, steps: int, bound: float) -> None:
    config = CompactVLAConfig(head=head, horizon=2, width=96, token_width=48)
    shape = ModelShape.of(ObservationSpec({}, 6), 7, config)
    rng = np.random.default_rng(0)
    context = rng.normal(size=(8, shape.context_dim)).astype(np.float32)
    chunks = rng.uniform(-0.9, 0.9, (8, 2, 7)).astype(np.float32)
    losses: list[float] = []
    params = init_params(shape, jax.random.key(0))
    copies = 1 if head == "tokens" else 16  # the others average over times and noises
    batch = {"context": np.tile(context, (copies, 1)), "chunks": np.tile(chunks, (copies, 1, 1))}
    trained = fit(
        _HeadLoss(shape), params["head"], _stats(shape), lambda step: batch,
        TrainConfig(steps=steps, batch_size=8, learning_rate=6e-3, weight_decay=0.0),
        steps_per_call=50, progress=lambda step, loss: losses.append(loss),
    )  # fmt: skip
    assert losses[-1] < bound, f"loss ends at {losses[-1]}"
    inferred = decode({**params, "head": trained}, _stats(shape), shape, jnp.asarray(context))
    assert np.abs(inferred - chunks).max() < 0.05


def test_lora_is_low_rank_starts_at_nothing_and_merges_exactly() -> None:
    params = {"layer": {"w": jnp.ones((40, 30)), "b": jnp.zeros(30)}, "conv": {"w": jnp.ones((3, 3, 4, 8))}}
    adapters = init_adapters(params, 5, jax.random.key(0))
    assert sorted(adapters) == ["['conv']['w']", "['layer']['w']"]
    for old, new in zip(jax.tree.leaves(params), jax.tree.leaves(merge_adapters(params, adapters)), strict=True):
        np.testing.assert_array_equal(old, new)
    adapters = jax.tree.map(lambda leaf: leaf + 0.1, adapters)
    merged = merge_adapters(params, adapters)
    down, up = (adapters["['layer']['w']"][name] for name in ("down", "up"))
    x = jax.random.normal(jax.random.key(1), (6, 40))
    apart = x @ params["layer"]["w"] + (x @ down) @ up
    np.testing.assert_allclose(dense(merged["layer"], x), apart, rtol=1e-5, atol=1e-4)
    assert np.linalg.matrix_rank(merged["layer"]["w"] - params["layer"]["w"], tol=1e-4) <= 5


def test_patches_keep_every_pixel_in_place() -> None:
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(1, 8, 8, 3)
    cut = np.asarray((patches(jnp.asarray(image), 4) + 1.0) * 127.5)
    np.testing.assert_allclose(cut[0, 1, 0].reshape(4, 4, 3), image[0, 4:, :4], atol=1e-3)


def test_scaled_grounding_is_odd_and_resolves_tenths_of_millimetres() -> None:
    g = jnp.array([[0.05, -0.05, 5.0, 0.3, 0.9]])
    scaled = np.asarray(scale_grounding(g))[0]
    assert scaled[0] == -scaled[1]
    assert scaled[0] > 0.1
    assert 1.0 < scaled[2] < 3.0
    np.testing.assert_allclose(scaled[3:], [0.3, 0.9])


def test_instruction_tokens_depend_on_words_and_order() -> None:
    a, b = tokenise("Put the peg into the socket!", 512), tokenise("put the socket into the peg", 512)
    np.testing.assert_array_equal(a, tokenise("put  THE peg into the socket", 512))
    assert a.shape == (MAX_TOKENS,)
    assert not np.array_equal(np.sort(a), np.sort(b))
    assert (tokenise("", 512) == PADDING).all()
    assert (tokenise("x " * 99, 512) != PADDING).all()


@pytest.mark.parametrize("wrong", [{"head": "gaussian"}, {"horizon": 0}, {"width": 1.5}, {"token_bins": 1}])
def test_wrong_configuration(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        CompactVLAConfig(**wrong)


def test_camera_that_does_not_fit_the_patches() -> None:
    with pytest.raises(ConfigError, match="patch"):
        ModelShape.of(ObservationSpec({"front": (62, 64, 3)}, 3), 7, CompactVLAConfig())
