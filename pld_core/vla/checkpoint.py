"""One-file checkpoints: a JSON header and a msgpack payload under one SHA-256. No pickle anywhere.

Layout: ``MAGIC``, header length (8 bytes, little endian), header, payload, SHA-256 of all before it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from pld_core.errors import CheckpointError
from pld_core.storage import write_atomic

MAGIC = b"PLDVLA01"
_DIGEST = hashlib.sha256().digest_size


def write_checkpoint(path: Path, header: Mapping[str, Any], tree: Any) -> None:
    """Write so that ``path`` holds either the old or the new checkpoint, whatever happens in between."""
    head = json.dumps(header, sort_keys=True).encode()
    body = MAGIC + struct.pack("<Q", len(head)) + head
    body += serialization.msgpack_serialize(serialization.to_state_dict(tree))
    write_atomic(Path(path), body + hashlib.sha256(body).digest())


def read_checkpoint(path: Path) -> tuple[dict[str, Any], Any]:
    """Header and state dictionary; CheckpointError if the file is missing, truncated, altered or another kind."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"Cannot read checkpoint {path}: {error.strerror or error}.") from error
    if not content.startswith(MAGIC):
        raise CheckpointError(f"{path} is not a CompactVLA checkpoint (it does not start with {MAGIC.decode()}).")
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    start = len(MAGIC) + 8
    if len(body) < start or hashlib.sha256(body).digest() != digest:
        raise CheckpointError(f"{path} is truncated or corrupt: its SHA-256 does not match. Use an earlier checkpoint.")
    (length,) = struct.unpack("<Q", body[len(MAGIC) : start])
    return json.loads(body[start : start + length]), serialization.msgpack_restore(body[start + length :])


def restore(template: Any, state: Any, path: Path) -> Any:
    """``state`` in the structure of ``template``; CheckpointError if shapes or names differ."""
    try:
        tree = serialization.from_state_dict(template, state)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} holds other parameters than its configuration asks for: {error}") from error
    for old, new in zip(jax.tree.leaves(template), jax.tree.leaves(tree), strict=True):
        if np.shape(old) != np.shape(new):
            raise CheckpointError(f"{path} holds an array of shape {np.shape(new)} where {np.shape(old)} is needed.")
    return tree
