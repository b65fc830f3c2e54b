"""Plain values and typed arrays as msgpack. What comes in is only ever data, never code.

An array is a msgpack extension that holds ``[dtype, shape, raw bytes]``; only numbers and booleans can
be in one. Everything that ``encode`` writes ``decode`` reads; anything else is a LinkError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, cast

import msgpack
import numpy as np

from pld_core.errors import LinkError

MAX_BYTES = 2**30
MAX_DEPTH = 32
MAX_ITEMS = 100_000  # of one list or dictionary: more belong into an array
MAX_NUMBER = 2**63 - 1

_ARRAY, _SCALAR = 1, 2  # extension codes
_KINDS = "biufc"  # bool, integers, floats, complex: what raw bytes can carry
_DTYPE = re.compile(r"[<>|][biufc]\d{1,2}")
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_LIMITS = {"raw": False, "strict_map_key": True, "max_array_len": MAX_ITEMS, "max_map_len": MAX_ITEMS}


def encode(value: Any, limit_bytes: int = MAX_BYTES) -> bytes:
    """``value`` as bytes.

    Dictionaries (keys are strings), lists, str, int, float, bool, None, bytes, arrays and numpy scalars
    come back as they were; a tuple comes back as a list, whatever offers ``__array__`` as an array.
    """
    try:
        data = cast(bytes, msgpack.packb(_packable(value, ())))
    except (ValueError, OverflowError, MemoryError) as error:
        raise LinkError(f"Cannot encode {_short(value)}: {error}. Numbers have 64 bits, text is UTF-8.") from error
    if len(data) > limit_bytes:
        raise LinkError(f"Cannot encode {len(data)} bytes; at most {limit_bytes} are valid here. Send smaller parts.")
    return data


def decode(data: bytes) -> Any:
    """The value that ``encode`` was given; arrays are writable copies."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise LinkError(f"Cannot decode a {type(data).__name__}; give the bytes that encode() returned.")
    if len(data) > MAX_BYTES:
        raise LinkError(f"Refused {len(data)} bytes; at most {MAX_BYTES} are valid.")
    try:
        # Timestamps are never sent; as plain floats they can do no harm.
        return msgpack.unpackb(data, ext_hook=_extension, object_hook=_text_keys, timestamp=1, **_LIMITS)
    except (ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise LinkError(
            f"Malformed message of {len(data)} bytes ({reason}); only encode() makes valid ones."
        ) from error


def unpack(data: bytes, kind: str, fields: Mapping[str, type]) -> dict[str, Any]:
    """A message that is a dictionary with just these fields, of these types; integers are not negative."""
    message = decode(data)
    if not isinstance(message, dict) or message.get("kind") != kind:
        given = message.get("kind") if isinstance(message, dict) else type(message).__name__
        raise LinkError(f"Given a message of kind {_short(given)}, valid is {kind!r}; run one version on both sides.")
    if message.keys() != {"kind", *fields}:
        raise LinkError(f"A {kind} message has the fields {_short(sorted(message))}, valid are {sorted(fields)}.")
    for name, expected in fields.items():
        value = message[name]
        if type(value) is not expected or (expected is int and not 0 <= value <= MAX_NUMBER):
            raise LinkError(f"{name} of a {kind} message is {_short(value)}, valid is {expected.__name__}.")
    return message


def _packable(value: Any, path: tuple[str, ...]) -> Any:
    if type(value) in _PLAIN:
        return value
    if len(path) > MAX_DEPTH:
        raise LinkError(f"Cannot encode more than {MAX_DEPTH} levels; given {'/'.join(path[:4])}/... Nest less.")
    if isinstance(value, (Mapping, list, tuple)) and len(value) > MAX_ITEMS:
        raise LinkError(f"Cannot encode {len(value)} items at {_place(path)}; {MAX_ITEMS} are valid. Use an array.")
    if isinstance(value, Mapping):
        return {_key(key, path): _packable(item, (*path, str(key))) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [item if type(item) in _PLAIN else _packable(item, (*path, "[]")) for item in value]
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if hasattr(value, "__array__"):
        return _packed_array(value, path)
    raise LinkError(
        f"Cannot encode {_short(value)} ({type(value).__name__}) at {_place(path)}; valid are dict, list, str, int, "
        "float, bool, None, bytes and arrays of numbers."
    )


def _key(key: Any, path: tuple[str, ...]) -> str:
    if type(key) is not str:
        raise LinkError(f"Dictionary keys must be str; given {_short(key)} at {_place(path)}.")
    return key


def _packed_array(value: Any, path: tuple[str, ...]) -> msgpack.ExtType:
    array = np.asarray(value)
    if array.dtype.kind not in _KINDS:
        raise LinkError(
            f"Cannot encode an array of {array.dtype} at {_place(path)}; only numbers and booleans are valid. "
            "Convert it first (bfloat16 to float32, text to str)."
        )
    code = _SCALAR if isinstance(value, np.generic) else _ARRAY
    return msgpack.ExtType(code, msgpack.packb([array.dtype.str, array.shape, array.tobytes()]))


def _extension(code: int, data: bytes) -> np.ndarray | np.generic:
    match msgpack.unpackb(data, timestamp=1, **_LIMITS) if code in (_ARRAY, _SCALAR) else None:
        case [str(name), [*shape], bytes(raw)] if _DTYPE.fullmatch(name) and all(type(n) is int for n in shape):
            dtype = np.dtype(name)
        case _:
            raise LinkError(f"Malformed array (extension {code}); valid is [dtype, shape, bytes] of numbers.")
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(raw):
        raise LinkError(f"Malformed array: {len(raw)} bytes are not {dtype} of shape {_short(shape)}.")
    array = np.ndarray(shape, dtype, buffer=raw).copy()
    if code == _ARRAY:
        return array
    if shape:
        raise LinkError(f"Malformed scalar: it has shape {_short(shape)}.")
    return array[()]


def _text_keys(mapping: dict[Any, Any]) -> dict[str, Any]:
    if not all(type(key) is str for key in mapping):
        raise LinkError("Malformed message: dictionary keys must be str.")
    return mapping


def _place(path: tuple[str, ...]) -> str:
    return "/".join(path) or "the top"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
