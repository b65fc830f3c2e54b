"""Low-rank adapters (LoRA, Hu et al. 2021): kernel + B A, for every dense and convolution kernel.

A kernel ``[..., in, out]`` is read as a matrix ``[rows, out]``. The down factor starts random and the up
factor zero, so that training starts from the unchanged policy. Adapters are merged into the kernels by
the same expression that training differentiates: the merged policy is the trained one.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pld_core.vla.layers import Params

Adapters = dict[str, dict[str, jax.Array]]


def init_adapters(params: Params, rank: int, key: jax.Array) -> Adapters:
    """Factors ``{path: {"down" [rows, r], "up" [r, out]}}``, r cut to the kernel's own rank, for leaves named ``w``."""
    kernels = {name: leaf for name, leaf in _named(params) if name.endswith("['w']")}
    adapters = {}
    for number, (name, kernel) in enumerate(sorted(kernels.items())):
        rows, columns = kernel.size // kernel.shape[-1], kernel.shape[-1]
        r = min(rank, rows, columns)
        down = jax.random.normal(jax.random.fold_in(key, number), (rows, r)) / rows**0.5
        adapters[name] = {"down": down, "up": jnp.zeros((r, columns))}
    return adapters


def merge_adapters(params: Params, adapters: Adapters) -> Params:
    """Parameters with ``down @ up`` added to each adapted kernel."""

    def merged(path: Any, leaf: jax.Array) -> jax.Array:
        adapter = adapters.get(jax.tree_util.keystr(path))
        return leaf if adapter is None else leaf + (adapter["down"] @ adapter["up"]).reshape(leaf.shape)

    return jax.tree_util.tree_map_with_path(merged, params)


def _named(params: Params) -> list[tuple[str, jax.Array]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
