"""Atomic, verified checkpoints of arrays and counters in one file. No pickle.

File: magic (8 bytes), length of the header (uint64, little endian), header (JSON: metadata and, per
array, path, dtype, shape, offset), raw array bytes (each aligned to 64), SHA-256 of all before it.
The file that is replaced is kept as ``<name>.previous`` and is what a corrupt newest one falls back to.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pld_core.errors import CheckpointError
from pld_core.storage import storage_errors, write_atomic

_MAGIC = b"PLDCKPT1"
_ALIGNMENT = 64
_DIGEST_SIZE = hashlib.sha256().digest_size
_PREFIX_SIZE = len(_MAGIC) + 8
_KINDS = "biufc"  # bool, integers, floats, complex: what raw bytes can carry

Arrays = dict[str, Any]
Leaf = tuple[tuple[str, ...], np.ndarray | None]  # None: an empty dictionary


def save_checkpoint(path: str | Path, arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write ``arrays`` (nested dictionaries of numpy or JAX arrays) and JSON-able ``metadata``.

    The new file replaces the old one only when it is complete and on disk; on any failure what was
    there before is untouched.
    """
    path = Path(path)
    leaves = list(_leaves(arrays))
    header = _header(leaves, metadata)

    def content(file: BinaryIO) -> None:
        _write(file, header, leaves)
        file.flush()
        os.fsync(file.fileno())
        _keep_previous(path)  # the new one is on disk: all that is left is its name

    write_atomic(path, content)
    with storage_errors(path):
        _sync_directory(path.parent)


def load_checkpoint(path: str | Path) -> tuple[Arrays, dict[str, Any]]:
    """``(arrays, metadata)`` of the newest complete checkpoint; warns when that is the previous one."""
    path = Path(path)
    try:
        return _read(path)
    except CheckpointError as error:
        backup = previous_path(path)
        if not backup.exists():
            raise
        try:
            content = _read(backup)
        except CheckpointError as second:
            raise CheckpointError(f"{error} The previous one is no help: {second}") from error
        warnings.warn(f"{error} Going on from the previous checkpoint, {backup}.", stacklevel=2)
        return content


def previous_path(path: str | Path) -> Path:
    """Where the checkpoint before the newest one is kept."""
    path = Path(path)
    return path.with_name(f"{path.name}.previous")


# -- writing ---------------------------------------------------------------------------------------


def _leaves(tree: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Paths and arrays; an empty dictionary is kept as a path with no array (``None``)."""
    for key, value in tree.items():
        if not isinstance(key, str):
            raise CheckpointError(f"Checkpoint keys must be strings; given {key!r} under {'/'.join(prefix) or 'root'}.")
        if isinstance(value, Mapping):
            if value:
                yield from _leaves(value, (*prefix, key))
            else:
                yield (*prefix, key), None
            continue
        array = np.asarray(value)
        if array.dtype.kind not in _KINDS:
            raise CheckpointError(
                f"Checkpoint entry {'/'.join((*prefix, key))} has dtype {array.dtype}; only numbers and booleans "
                "can be stored. Put text into the metadata."
            )
        yield (*prefix, key), np.require(array, requirements="C")


def _header(leaves: list[Leaf], metadata: Mapping[str, Any]) -> bytes:
    entries, offset = [], 0
    for path, array in leaves:
        entry: dict[str, Any] = {"path": path}
        if array is not None:
            entry |= {"dtype": array.dtype.str, "shape": array.shape, "offset": offset}
            offset += _padded(array.nbytes)
        entries.append(entry)
    try:
        text = json.dumps({"metadata": dict(metadata), "arrays": entries, "bytes": offset}, default=_plain)
    except TypeError as error:
        raise CheckpointError(f"Checkpoint metadata must be plain JSON values: {error}.") from error
    encoded = text.encode()
    return encoded + b" " * (-(_PREFIX_SIZE + len(encoded)) % _ALIGNMENT)


def _write(file: BinaryIO, header: bytes, leaves: list[Leaf]) -> None:
    digest = hashlib.sha256()

    def put(data: bytes | memoryview) -> None:
        digest.update(data)
        file.write(data)

    put(_MAGIC + struct.pack("<Q", len(header)))
    put(header)
    for _, array in leaves:
        if array is not None and array.nbytes:
            put(array.reshape(-1).view(np.uint8).data)
            put(b"\0" * (_padded(array.nbytes) - array.nbytes))
    file.write(digest.digest())


def _keep_previous(path: Path) -> None:
    """Give the present file its second name; ``path`` itself exists at every moment if links work."""
    if not path.exists():
        return
    link = path.with_name(f".{path.name}.{os.getpid()}.link")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)
    except OSError:  # a file system without hard links
        os.replace(path, previous_path(path))
        return
    try:
        os.replace(link, previous_path(path))
    finally:
        link.unlink(missing_ok=True)  # renaming between two names of one file leaves both


def _padded(size: int) -> int:
    return size + (-size % _ALIGNMENT)


def _plain(value: Any) -> Any:
    """numpy scalars inside metadata, as JSON knows them."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not")


def _sync_directory(directory: Path) -> None:
    """Make the renames themselves durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- reading ---------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[Arrays, dict[str, Any]]:
    try:
        content = np.fromfile(path, np.uint8)  # aligned and writable; arrays below are views of it
    except FileNotFoundError:
        raise CheckpointError(f"No checkpoint at {path}.") from None
    except OSError as error:
        raise CheckpointError(f"Checkpoint {path} cannot be read: {error.strerror or error}.") from error
    header, start = _verified_header(path, content)
    arrays: Arrays = {}
    for entry in header["arrays"]:
        *parents, name = entry["path"]
        place = arrays
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = _array(content, start, entry) if "dtype" in entry else {}
    return arrays, header["metadata"]


def _verified_header(path: Path, content: np.ndarray) -> tuple[dict[str, Any], int]:
    hint = "The file is not usable; resume from another checkpoint."
    if content.size < _PREFIX_SIZE + _DIGEST_SIZE or content[: len(_MAGIC)].tobytes() != _MAGIC:
        raise CheckpointError(
            f"{path} ({content.size} bytes) is not a checkpoint of this project, or is cut off. {hint}"
        )
    body = content[:-_DIGEST_SIZE]
    if hashlib.sha256(body.data).digest() != content[-_DIGEST_SIZE:].tobytes():
        raise CheckpointError(f"Checkpoint {path} is truncated or corrupt (its SHA-256 does not match). {hint}")
    (size,) = struct.unpack("<Q", content[len(_MAGIC) : _PREFIX_SIZE].tobytes())
    return json.loads(content[_PREFIX_SIZE : _PREFIX_SIZE + size].tobytes()), _PREFIX_SIZE + size


def _array(content: np.ndarray, start: int, entry: Mapping[str, Any]) -> np.ndarray:
    dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
    first = start + entry["offset"]
    size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    return content[first : first + size].view(dtype).reshape(shape)
