"""What the classifier remembers of an episode: a gated recurrent unit (Cho et al. 2014) over what it saw.

One picture may not tell enough. Of a peg in its hole the tip is hidden, and how deep it is follows from what was to
be seen before: how far it stuck out of the hand, when the tip vanished, how far the hand has moved since.

Letters: ``B`` episodes, ``T`` ticks, ``F`` features of all eyes, ``P`` proprioception, ``M`` numbers remembered.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pld_core.vla.layers import Params, dense, dense_init, mlp, mlp_init


def init_memory(key: jax.Array, feature_dim: int, proprio_dim: int, size: int) -> Params:
    """Fresh weights; size: M."""
    keys = jax.random.split(key, 5)
    return {
        "features": dense_init(keys[0], feature_dim, size),
        "proprio": dense_init(keys[1], proprio_dim, size),
        "gates": dense_init(keys[2], 2 * size, 2 * size),
        "candidate": dense_init(keys[3], 2 * size, size),
        "head": mlp_init(keys[4], (2 * size, size, 1), 0.1),
    }


def enter(params: Params, features: jax.Array, proprio: jax.Array) -> jax.Array:
    """What is taken in, ``[..., M]``, of features ``[..., F]`` and proprioception ``[..., P]``, both normalised."""
    return jnp.tanh(dense(params["features"], features) + dense(params["proprio"], proprio))


def remember(params: Params, memory: jax.Array, entered: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(memory [B, M] after a tick, logit [B])``."""
    both = jnp.concatenate([memory, entered], axis=-1)
    fresh, kept = jnp.split(jax.nn.sigmoid(dense(params["gates"], both)), 2, axis=-1)
    candidate = jnp.tanh(dense(params["candidate"], jnp.concatenate([fresh * memory, entered], axis=-1)))
    memory = kept * memory + (1.0 - kept) * candidate
    return memory, mlp(params["head"], jnp.concatenate([memory, entered], axis=-1))[..., 0]


def unroll(params: Params, entered: jax.Array) -> jax.Array:
    """Logits ``[B, T]`` of whole episodes ``[B, T, M]``."""
    empty = jnp.zeros((entered.shape[0], entered.shape[2]))
    _, logits = jax.lax.scan(lambda memory, now: remember(params, memory, now), empty, entered.swapaxes(0, 1))
    return logits.swapaxes(0, 1)
