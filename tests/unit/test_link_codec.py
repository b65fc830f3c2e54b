"""What travels on the link: encoding and its errors."""

from __future__ import annotations

import contextlib
import math
import pickle
from collections import OrderedDict
from types import MappingProxyType

import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pld_core.errors import LinkError
from pld_core.link import codec, decode, encode
from pld_core.link.records import pack_status, unpack_status

DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(endianness="?"),
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(),
    st.binary(),
    ARRAYS,
    ARRAYS.filter(lambda a: a.size > 0).map(lambda a: a.ravel()[0]),  # numpy scalars
)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4))


def assert_same(a, b) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    elif isinstance(a, (np.ndarray, np.generic)):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    else:
        assert a == b or (math.isnan(a) and math.isnan(b))


@settings(max_examples=60)
@given(VALUES)
def test_whatever_is_encoded_comes_back(value):
    assert_same(value, decode(encode(value)))


def test_what_is_like_a_plain_value_comes_back_as_one():
    value = {"t": (1, 2), "o": OrderedDict(a=1), "m": MappingProxyType({"b": 2}), "y": bytearray(b"c")}
    assert decode(encode(value)) == {"t": [1, 2], "o": {"a": 1}, "m": {"b": 2}, "y": b"c"}
    strided = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[:, ::2]
    back = decode(encode(strided))
    np.testing.assert_array_equal(back, strided)
    back[0, 0, 0] = 9  # a copy of its own


@settings(max_examples=80)
@given(st.binary(max_size=200))
def test_hostile_bytes_give_values_or_a_link_error(data):
    with contextlib.suppress(LinkError):
        decode(data)


@settings(max_examples=80)
@given(VALUES, st.data())
def test_damaged_messages_give_values_or_a_link_error(value, data):
    message = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(LinkError):
        decode(bytes(message[: data.draw(st.integers(0, len(message)))]))


def array_of(*parts, code: int = 1) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, msgpack.packb(list(parts))))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pickle.dumps({"a": 1}),
        encode(1) + b"\0",  # something after the end
        b"\x91" * 5000,  # nested without end
        b"\xdd\xff\xff\xff\xff",  # four billion items, it says
        b"\xdd\x00\x0f\x00\x00" * 1000,
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        msgpack.packb({1: 2}),
        msgpack.packb({b"a": 2}),
        msgpack.packb(msgpack.ExtType(7, b"x")),
        b"\xd4\xffx",  # half a timestamp
        array_of("|O", [1], b"12345678"),
        array_of("|V8", [1], b"12345678"),
        array_of("<M8[ns]", [1], b"12345678"),
        array_of("<U2", [1], b"12345678"),
        array_of("<f3", [1], b"123"),
        array_of("f4,O", [1], b"12345678"),
        array_of("<f4", [2], b"12345678"[:4]),
        array_of("<f4", [-1, -1], b"1234"),
        array_of("<f4", [2**62, 4], b""),
        array_of("<f4", [0, 2**62, 2**62], b""),
        array_of("<f4", [1] * 100, b"1234"),
        array_of("<f4", [True], b"1234"),
        array_of("<f4", 1, b"1234"),
        array_of("<f4", [1], "1234"),
        array_of("<f4", [1]),
        array_of("<f4", [1], b"1234", code=2),
        array_of(["<f4"], [1], b"1234"),
    ],
)
def test_malformed_messages_are_refused(data):
    with pytest.raises(LinkError, match="alformed"):
        decode(data)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ({"a": {"b": [object()]}}, r"a/b/\[\]"),
        ({"a": {1: 2}}, "keys must be str; given 1 at a"),
        ({"x": np.array(["text"])}, "Convert it"),
        ({"x": np.array([None])}, "only numbers"),
        ({"x": np.datetime64("2024-01-01")}, "only numbers"),
        ({"x": 2**64}, "64 bits"),
        ({"x": "\ud800"}, "UTF-8"),
        ({"x": {1, 2}}, "set"),
        ([0] * (codec.MAX_ITEMS + 1), "Use an array"),
    ],
)
def test_what_cannot_be_encoded_is_named(value, hint):
    with pytest.raises(LinkError, match=hint):
        encode(value)


def test_other_peoples_arrays():
    class Array:  # as JAX's and torch's
        def __array__(self, dtype=None, copy=None) -> np.ndarray:
            return np.arange(3.0)

    np.testing.assert_array_equal(decode(encode({"a": Array()}))["a"], [0.0, 1.0, 2.0])
    with pytest.raises(LinkError, match="bfloat16 to float32"):
        encode(np.zeros(2, ml_dtypes.bfloat16))


def test_limits():
    value: list = []
    for _ in range(codec.MAX_DEPTH + 1):
        value = [value]
    with pytest.raises(LinkError, match="levels"):
        encode(value)
    circle: dict = {}
    circle["self"] = circle
    with pytest.raises(LinkError, match="levels"):
        encode(circle)
    with pytest.raises(LinkError, match="at most 100 are valid"):
        encode(np.zeros(100), 100)
    with pytest.raises(LinkError, match="bytes that encode"):
        decode("text")  # type: ignore[arg-type]


def test_messages_of_another_kind_or_version_are_refused():
    with pytest.raises(LinkError, match="one version on both sides"):
        unpack_status(pack_status("r", 2, 1, 1).replace(b"pld.status.1", b"pld.status.2"))
    for damage in ({"want": -1}, {"want": 1.0}, {"want": True}, {"want": 2**63}, {"extra": 1}, {"acknowledged": 2}):
        fields = {"kind": "pld.status.1", "receiver": "r", "want": 2, "room": 1, "acknowledged": 1} | damage
        with pytest.raises(LinkError):
            unpack_status(encode(fields))
