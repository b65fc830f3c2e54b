"""What is said of an episode as a whole: its order, its outcome and its closing row, under ``pld/``.

An episode of T ticks has T + 1 rows; a LeRobot episode has T frames. The last row is kept here, but for its pictures:
they lie in the videos right behind the last frame, where LeRobot never looks.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pld_core.data.lerobot.features import COLUMN_OF, NORMALISED
from pld_core.errors import ContractError
from pld_core.storage import finite
from pld_core.types import Episode, EpisodeSpec

_SPEC = {
    "task": pa.string(),
    "seed": pa.int64(),
    "mode": pa.string(),
    "t_base": pa.int64(),
    "xi": pa.float64(),
    "explore": pa.bool_(),
    "noise_ticks": pa.int64(),
    "record_images": pa.bool_(),
}
_OUTCOME = {
    "instruction": pa.string(),
    "policy_version": pa.string(),
    "success": pa.bool_(),
    "terminated": pa.bool_(),
    "truncated": pa.bool_(),
    "voided": pa.bool_(),
    "environment_success": pa.bool_(),
}
_CLOSING = ("proprio", "state", "base_action")
_METADATA = "pld/metadata"

SCHEMA = {f"pld/{name}": kind for name, kind in {**_SPEC, **_OUTCOME}.items()}
SCHEMA |= {f"pld/closing.{name}": pa.list_(pa.float32()) for name in _CLOSING} | {_METADATA: pa.string()}


def describe(episode: Episode, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of ``SCHEMA``; metadata: what the episode's store adds, kept as JSON."""
    found = {f"pld/{name}": value for name, value in dataclasses.asdict(episode.spec).items()}
    found |= {f"pld/{name}": getattr(episode, name) for name in _OUTCOME}
    found |= {f"pld/closing.{name}": np.asarray(getattr(episode, name))[-1].tolist() for name in _CLOSING}
    return found | {_METADATA: json.dumps(finite(dict(metadata)))}


def identity(described: Mapping[str, Any]) -> str:
    """Equal for an episode and what was exported of it, different for any other."""
    return json.dumps([described.get(key) for key in SCHEMA])


def restore(
    described: Mapping[str, Any], columns: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray], source: str
) -> tuple[Episode, dict[str, Any]]:
    """The episode and its store's metadata. columns: by key, as ``rows_of`` made them; images: ``[T + 1, h, w, 3]``.

    source: what the message names if a key is missing (ContractError), as in a dataset that PLD did not write.
    """
    lacking = sorted((set(SCHEMA) - set(described)) | (set(COLUMN_OF.values()) - set(columns)))
    if lacking:
        raise ContractError(
            f"{source} lacks {', '.join(lacking)}. `pld import` reads what `pld export` wrote: other datasets do not "
            "say what the base proposed, who acted and how it ended."
        )
    arrays: dict[str, Any] = {name: columns[key] for name, key in COLUMN_OF.items()}
    arrays["action"] = columns.get(NORMALISED, arrays["action"])
    for name in _CLOSING:
        closing = np.asarray(described[f"pld/closing.{name}"], np.float32)
        arrays[name] = np.concatenate([arrays[name].reshape(-1, len(closing)), closing[None]])
    for name in ("action", "residual"):
        arrays[name] = arrays[name].reshape(-1, arrays["base_action"].shape[1])
    episode = Episode(
        spec=EpisodeSpec(**{name: described[f"pld/{name}"] for name in _SPEC}),
        images=images,
        **{name: described[f"pld/{name}"] for name in _OUTCOME},
        **arrays,
    )
    return episode, json.loads(described[_METADATA])
