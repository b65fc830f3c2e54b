"""Autoregressive action tokens, as in OpenVLA (Kim et al. 2024): 256 uniform bins per dimension.

A small gated recurrent cell reads the context once and then emits the ``H * A`` tokens of a chunk one
after the other, each fed the one before it. Training is the token sequence's negative log-likelihood
with teacher forcing; inference is greedy, unless a sample is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pld_core.vla.layers import Params, dense, dense_init


def init(config: Any, context_dim: int, action_dim: int, key: jax.Array) -> Params:
    keys = jax.random.split(key, 7)
    width, size = config.token_width, config.horizon * action_dim
    return {
        "context": dense_init(keys[0], context_dim, 2 * width, 2**0.5),
        "start": dense_init(keys[1], 2 * width, width),
        "gates": dense_init(keys[2], 2 * width, 3 * width),
        "recurrent": dense_init(keys[3], width, 3 * width),
        "token": 0.3 * jax.random.normal(keys[4], (config.token_bins + 1, 3 * width)),  # last row: start of chunk
        "place": 0.3 * jax.random.normal(keys[5], (size, 3 * width)),
        "logits": dense_init(keys[6], width, config.token_bins, 0.1),
        "prior": jnp.zeros((action_dim, config.token_bins)),  # each dimension has bins of its own
    }


def encode_actions(actions: jax.Array, low: jax.Array, high: jax.Array, bins: int) -> jax.Array:
    """Bin numbers int32 of actions ``[..., A]``; values outside [low, high] go to the outermost bins."""
    position = (actions - low) / (high - low) * bins
    return jnp.clip(jnp.floor(position), 0, bins - 1).astype(jnp.int32)


def decode_tokens(tokens: jax.Array, low: jax.Array, high: jax.Array, bins: int) -> jax.Array:
    """Centres of the bins."""
    return low + (tokens.astype(jnp.float32) + 0.5) / bins * (high - low)


def _read_context(params: Params, context: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First hidden state ``[B, width]`` and the context's constant share of the gates ``[B, 3 * width]``."""
    hidden = jax.nn.relu(dense(params["context"], context))
    return jnp.tanh(dense(params["start"], hidden)), dense(params["gates"], hidden)


def _cell(params: Params, state: jax.Array, inputs: jax.Array) -> jax.Array:
    """Gated recurrent unit (Cho et al. 2014) with the input products already summed in ``inputs [B, 3*width]``."""
    reset_in, update_in, new_in = jnp.split(inputs, 3, axis=-1)
    reset_state, update_state, new_state = jnp.split(dense(params["recurrent"], state), 3, axis=-1)
    update = jax.nn.sigmoid(update_in + update_state)
    candidate = jnp.tanh(new_in + jax.nn.sigmoid(reset_in + reset_state) * new_state)
    return update * state + (1.0 - update) * candidate


def token_logits(params: Params, config: Any, context: jax.Array, tokens: jax.Array) -> jax.Array:
    """Teacher forcing: logits ``[B, H*A, bins]`` of every token given the ones before it in ``tokens [B, H*A]``."""
    start, constant = _read_context(params, context)
    previous = jnp.concatenate([jnp.full_like(tokens[:, :1], config.token_bins), tokens[:, :-1]], axis=1)
    inputs = params["token"][previous] + params["place"] + constant[:, None]

    def step(state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = _cell(params, state, x)
        return state, state

    _, states = jax.lax.scan(step, start, inputs.swapaxes(0, 1))
    prior = jnp.tile(params["prior"], (config.horizon, 1))
    return dense(params["logits"], states.swapaxes(0, 1)) + prior


def loss(
    params: Params,
    config: Any,
    stats: Mapping[str, jax.Array],
    context: jax.Array,
    actions: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Negative log-likelihood per token (nats) of chunks ``[B, H, A]``. ``key`` is unused: nothing is random."""
    tokens = encode_actions(actions, stats["action_low"], stats["action_high"], config.token_bins)
    tokens = tokens.reshape(tokens.shape[0], -1)
    log_probability = jax.nn.log_softmax(token_logits(params, config, context, tokens))
    return -jnp.mean(jnp.take_along_axis(log_probability, tokens[..., None], axis=-1))


def sample(
    params: Params, config: Any, stats: Mapping[str, jax.Array], context: jax.Array, key: jax.Array | None = None
) -> jax.Array:
    """Chunk ``[B, H, A]``: the likeliest token at each of the ``H * A`` places in turn, or one drawn with the key."""
    state, constant = _read_context(params, context)
    batch = context.shape[0]
    prior = jnp.tile(params["prior"], (config.horizon, 1))

    def step(carry: tuple[jax.Array, jax.Array], place: tuple[jax.Array, jax.Array, jax.Array | None]):
        state, token = carry
        state = _cell(params, state, params["token"][token] + place[0] + constant)
        logits, drawn = dense(params["logits"], state) + place[1], place[2]
        token = jnp.argmax(logits, axis=-1) if drawn is None else jax.random.categorical(drawn, logits)
        return (state, token), token

    start = (state, jnp.full(batch, config.token_bins))
    keys = None if key is None else jax.random.split(key, len(prior))
    _, tokens = jax.lax.scan(step, start, (params["place"], prior, keys))
    tokens = tokens.T.reshape(batch, config.horizon, -1)
    return decode_tokens(tokens, stats["action_low"], stats["action_high"], config.token_bins)
