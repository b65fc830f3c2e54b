"""JSON with arrays as the package json-numpy writes them: maps of ``__numpy__`` (base64), ``dtype`` and ``shape``."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from pld_core.vla.remote.wire import WireError, plain_dtype, read_array

_ARRAY = "__numpy__"


def dumps(value: Any) -> bytes:
    """Maps, lists, text, finite numbers and arrays of numbers. Raises WireError."""
    try:
        return json.dumps(value, default=_encoded, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise WireError(
            f"Cannot send this: {error}. Valid are maps, lists, text, numbers and arrays of them."
        ) from error


def loads(data: bytes) -> Any:
    """The value; arrays are read-only. Raises WireError."""
    try:
        return json.loads(data, object_hook=_array)
    except WireError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WireError(f"{len(data)} bytes are not JSON as json-numpy writes it: {error}.") from error


def _encoded(value: Any) -> dict[str, Any]:
    if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.kind not in "biuf":
        raise TypeError(f"{type(value).__name__} is no plain value")
    data = base64.b64encode(value.tobytes()).decode()
    return {_ARRAY: data, "dtype": value.dtype.str, "shape": list(value.shape)}


def _array(mapping: dict[str, Any]) -> Any:
    if _ARRAY not in mapping:
        return mapping
    return read_array(base64.b64decode(mapping[_ARRAY], validate=True), plain_dtype(mapping["dtype"]), mapping["shape"])
