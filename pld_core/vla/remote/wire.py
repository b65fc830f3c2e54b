"""openpi's messages: msgpack, an array as a map of its dtype, shape and bytes. What comes in is only ever data."""

from __future__ import annotations

import math
import re
from typing import Any

import msgpack
import numpy as np

from pld_core.errors import ContractError

MAX_BYTES = 2**28  # of one message: sixteen uncompressed 4K pictures and more
_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"
_DTYPE = re.compile(r"[<>|][biuf]\d{1,2}")


class WireError(ContractError):
    """A message that the protocol does not know."""


def pack(value: Any) -> bytes:
    """Maps, lists, text, numbers, booleans, None, bytes and arrays of numbers as one message."""
    try:
        return msgpack.packb(value, default=_packable)  # type: ignore[return-value]
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(
            f"Cannot send this: {error}. Valid are maps, lists, text, numbers and arrays of them."
        ) from error


def unpack(data: bytes) -> Any:
    """The value that was packed; arrays are read-only views of ``data``. Raises WireError."""
    try:
        return msgpack.unpackb(data, object_hook=_array, timestamp=1)
    except WireError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise WireError(f"A message of {len(data)} bytes is not msgpack as openpi writes it: {reason}.") from error


def _packable(value: Any) -> dict[bytes, Any]:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind not in "biuf":
        raise TypeError(f"an array of {value.dtype} holds no plain numbers")
    if isinstance(value, np.ndarray):
        return {_ARRAY: True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {_SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    if hasattr(value, "__array__"):
        return _packable(np.asarray(value))
    raise TypeError(f"{type(value).__name__} is no plain value")


def _array(mapping: dict[Any, Any]) -> Any:
    if _ARRAY in mapping:
        return read_array(mapping[b"data"], plain_dtype(mapping[b"dtype"]), mapping[b"shape"])
    if _SCALAR in mapping:
        return plain_dtype(mapping[b"dtype"]).type(mapping[b"data"])
    return mapping


def plain_dtype(name: Any) -> np.dtype:
    """Raises WireError for what is no number."""
    if not (isinstance(name, str) and _DTYPE.fullmatch(name)):
        raise WireError(f"An array of {name!r} was sent; valid are numbers and booleans, such as '<f4'.")
    return np.dtype(name)


def read_array(data: Any, dtype: np.dtype, shape: Any) -> np.ndarray:
    """A view of ``data``; raises WireError where it has not that size."""
    sound = isinstance(data, bytes) and isinstance(shape, (list, tuple)) and all(type(n) is int for n in shape)
    if not sound or any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise WireError(
            f"An array of shape {shape} and {dtype} was sent with {len(data)} bytes, which is not its size."
        )
    return np.ndarray(shape, dtype, buffer=data)
