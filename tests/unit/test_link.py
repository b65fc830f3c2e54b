"""The actor-learner link in one process: encoding, spool, protocol, errors."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import inspect
import math
import os
import pickle
import random
import shutil
import threading
import time
from collections import OrderedDict
from types import MappingProxyType

import ml_dtypes
import msgpack
import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pld_core.errors import LinkError, StorageError
from pld_core.link import RecordReceiver, RecordSender, WeightsPublisher, WeightsSubscriber, codec, decode, encode
from pld_core.link.records import pack_batch, pack_status, unpack_status
from pld_core.link.spool import Spool

ANY_PORT = "tcp://127.0.0.1:*"
SPOOL = "0" * 32


def wait_until(condition, timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


# -- codec ---------------------------------------------------------------------------------------------

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


# -- spool ---------------------------------------------------------------------------------------------


def contents(spool: Spool, start: int = 1) -> dict[int, bytes]:
    spool.sync()
    found: dict[int, bytes] = {}
    while True:
        first, payloads = spool.read(start, 7, 1000)
        if not payloads:
            return found
        found |= dict(enumerate(payloads, first))
        start = first + len(payloads)


def test_spool_keeps_records_over_many_files(tmp_path):
    spool = Spool(tmp_path / "s", "robot", 4000)  # files of 500 bytes
    records = {spool.append(b"%d" % i * 20): b"%d" % i * 20 for i in range(1, 60)}
    assert list(records) == list(range(1, 60))
    assert contents(spool) == records
    assert contents(spool, 31) == {n: r for n, r in records.items() if n > 30}
    spool.acknowledge(40)
    assert spool.oldest == 41
    spool.close()
    again = Spool(tmp_path / "s", "robot", 4000)
    assert (again.last, again.acknowledged, again.oldest) == (59, 40, 41)
    assert again.identity == spool.identity
    assert again.append(b"more") == 60
    assert contents(again, 41) == {n: r for n, r in records.items() if n > 40} | {60: b"more"}
    again.acknowledge(60)
    again.close()
    once_more = Spool(tmp_path / "s", "robot", 4000)
    assert (once_more.append(b"x"), contents(once_more, 61)) == (61, {61: b"x"})
    once_more.close()


def test_a_half_written_record_is_cut_off(tmp_path):
    """Whatever part of the last record a kill has left, those before it stay and its number is given anew."""
    whole = Spool(tmp_path / "whole", "robot", 10**6)
    for i in range(3):
        whole.append(b"%d" % i * 30)
    whole.close()
    (segment,) = (tmp_path / "whole").glob("segment-*")
    content = segment.read_bytes()
    for size in range(len(content) - 38, len(content)):
        for rest in (b"", b"\0" * 50):  # a power cut may leave zeros
            torn = shutil.copytree(tmp_path / "whole", tmp_path / f"torn{size}-{len(rest)}")
            (torn / segment.name).write_bytes(content[:size] + rest)
            spool = Spool(torn, "robot", 10**6)
            assert spool.append(b"new") == 3
            assert contents(spool) == {1: b"0" * 30, 2: b"1" * 30, 3: b"new"}
            spool.close()


def test_numbers_that_may_have_been_seen_are_not_used_again(tmp_path):
    spool = Spool(tmp_path, "robot", 10**6)
    for i in range(10):
        spool.append(b"%d" % i)
    spool.sync()
    spool.close()
    (segment,) = tmp_path.glob("segment-*")
    content = bytearray(segment.read_bytes())
    content[5 * 9 + 8] ^= 1  # record 6
    segment.write_bytes(content)
    with pytest.warns(UserWarning, match="lost records 6 to 10"):
        spool = Spool(tmp_path, "robot", 10**6)
    assert spool.append(b"new") == 11
    assert contents(spool) == {n: b"%d" % (n - 1) for n in range(1, 6)} | {11: b"new"}
    spool.close()
    again = Spool(tmp_path, "robot", 10**6)  # and says so once
    assert again.last == 11
    again.close()


def test_a_full_spool_refuses_and_goes_on_when_there_is_room(tmp_path):
    spool = Spool(tmp_path, "robot", 1000)
    assert [spool.append(b"x" * 92) for _ in range(10)] == list(range(1, 11))
    with pytest.raises(StorageError, match=r"1000 of 1000 bytes.*Start the learner"):
        spool.append(b"x")
    assert sum(path.stat().st_size for path in tmp_path.glob("segment-*")) == 1000
    assert len(contents(spool)) == 10
    spool.acknowledge(9)
    assert spool.append(b"y" * 92) == 11
    spool.acknowledge(11)
    assert spool.append(b"z" * 900) == 12  # all of it is free again
    with pytest.raises(StorageError):
        spool.append(b"z" * 100)
    assert contents(spool, 12) == {12: b"z" * 900}
    spool.close()


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    spool = Spool(tmp_path, "robot", 10**6)
    spool.append(b"first")
    real = os.pwrite

    def full(file, data, offset):
        if len(data) > 50:
            return real(file, data[:50], offset)
        if len(data) > 8:
            raise OSError(errno.ENOSPC, "no space")
        return real(file, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        with pytest.raises(StorageError, match="disk is full"):
            spool.append(b"second" * 20)
    monkeypatch.undo()
    assert spool.append(b"2") == 2
    assert contents(spool) == {1: b"first", 2: b"2"}
    spool.close()
    again = Spool(tmp_path, "robot", 10**6)
    assert contents(again) == {1: b"first", 2: b"2"}
    again.close()


def test_a_full_disk_is_used_again_once_all_is_acknowledged(tmp_path, monkeypatch):
    spool = Spool(tmp_path, "robot", 10**6)
    real = os.pwrite

    def small_disk(file, data, offset):
        if sum(path.stat().st_size for path in tmp_path.glob("segment-*")) + len(data) > 1000:
            raise OSError(errno.ENOSPC, "no space")
        return real(file, data, offset)

    monkeypatch.setattr(os, "pwrite", small_disk)
    for round in range(3):
        for i in range(1, 10):
            assert spool.append(b"x" * 100) == 9 * round + i
        with pytest.raises(StorageError, match="disk is full"):
            spool.append(b"x" * 100)
        assert len(contents(spool, 9 * round + 1)) == 9
        spool.acknowledge(9 * round + 9)
    spool.close()


def test_a_spool_has_one_owner_and_one_name(tmp_path):
    spool = Spool(tmp_path, "robot", 10**6)
    with pytest.raises(LinkError, match="in use by another"):
        Spool(tmp_path, "robot", 10**6)
    spool.close()
    with pytest.raises(LinkError, match="belongs to sender 'robot', given 'other'"):
        Spool(tmp_path, "other", 10**6)
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(LinkError, match="damaged"):
        Spool(tmp_path, "robot", 10**6)
    with pytest.raises(LinkError, match="closed"):
        spool.append(b"x")


# -- records -------------------------------------------------------------------------------------------


class RawSender:
    """Says whatever a test wants to say."""

    def __init__(self, address: str) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.connect(address)

    def say(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def batch(self, numbers, oldest: int = 1, previous: int | None = None, spool: str = SPOOL) -> dict:
        """Send records that hold their number; returns the answer."""
        numbers = list(numbers)
        before = numbers[0] - 1 if previous is None else previous
        self.say(pack_batch("raw", spool, oldest, before, numbers[0], [encode({"n": n}) for n in numbers]))
        return self.answer()

    def answer(self) -> dict:
        assert self.socket.poll(30_000)
        return unpack_status(self.socket.recv())

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()


@pytest.fixture
def receiver():
    with RecordReceiver(ANY_PORT) as receiver:
        yield receiver


@pytest.fixture
def raw(receiver):
    raw = RawSender(receiver.address)
    yield raw
    raw.close()


def take(receiver: RecordReceiver, count: int) -> list[int]:
    """Numbers of the next records, acknowledged; nothing else may be waiting."""
    numbers = []
    for _ in range(count):
        received = receiver.receive(30.0)
        assert received is not None
        assert received.record["n"] == received.sequence
        received.acknowledge()
        numbers.append(received.sequence)
    assert receiver.receive(0.0) is None
    return numbers


def test_duplicates_gaps_and_overlaps_are_sorted_out(receiver, raw):
    assert raw.batch([1, 2])["want"] == 3
    assert raw.batch([1, 2])["want"] == 3
    assert raw.batch([5, 6])["want"] == 3  # something is missing: to be sent again
    assert raw.batch([2, 3, 4])["want"] == 5
    assert raw.batch([5, 6])["want"] == 7
    assert raw.batch([1])["want"] == 7
    assert take(receiver, 6) == [1, 2, 3, 4, 5, 6]
    wait_until(lambda: raw.batch([1])["acknowledged"] == 6)
    assert (receiver.lost, receiver.rejected) == (0, 0)


def test_what_a_senders_disk_lost_is_counted(receiver, raw):
    raw.batch([1, 2])
    assert raw.batch([6, 7], previous=2)["want"] == 8  # 3 to 5 are gone
    assert receiver.lost == 3
    assert raw.batch([10], oldest=10)["want"] == 11  # 8 and 9, too
    assert take(receiver, 5) == [1, 2, 6, 7, 10]
    assert receiver.lost == 5
    other = RawSender(receiver.address)  # with another spool, which was served before
    assert other.batch([100], oldest=100, spool="1" * 32)["want"] == 101
    other.close()
    assert take(receiver, 1) == [100]
    assert receiver.lost == 5


def test_hostile_messages_are_counted_and_change_nothing(receiver, raw):
    good = pack_batch("raw", SPOOL, 1, 0, 1, [encode({"n": 1})])
    hostile = [
        [b""],
        [b"\x91" * 5000],
        [pickle.dumps(receiver.address)],
        [good, good],
        [good[:-1]],
        [pack_batch("../../etc", SPOOL, 1, 0, 1, [])],
        [pack_batch("raw", "../x", 1, 0, 1, [])],
        [pack_batch("raw", SPOOL, 1, 1, 1, [])],
        [pack_batch("raw", SPOOL, 0, 0, 1, [])],
        [pack_batch("raw", SPOOL, 1, 0, 1, [b"\xc1"])],
        [pack_batch("raw", SPOOL, 1, 0, 1, [encode([1])])],
        [pack_batch("raw", SPOOL, 1, 0, 1, [b"\x80"] * 1000)],
        [pack_batch("raw", SPOOL, 1, 0, 1, ["text"])],  # type: ignore[list-item]
    ]
    for frames in hostile:
        raw.say(*frames)
    wait_until(lambda: receiver.rejected == len(hostile))
    assert receiver.last_rejection
    assert raw.batch([1])["want"] == 2
    assert take(receiver, 1) == [1]


class LossyNetwork:
    """Between one sender and a receiver: loses, doubles and swaps messages of both directions."""

    def __init__(self, address: str, seed: int) -> None:
        self.random = random.Random(seed)
        self.context = zmq.Context()
        self.front, self.back = self.context.socket(zmq.ROUTER), self.context.socket(zmq.DEALER)
        self.back.connect(address)
        self.address = f"tcp://127.0.0.1:{self.front.bind_to_random_port('tcp://127.0.0.1')}"
        self.stopping = threading.Event()
        self.counts = dict.fromkeys(("lost", "doubled", "swapped", "passed"), 0)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        peer, late = b"", {self.front: [], self.back: []}
        while not self.stopping.is_set():
            for source, target in ((self.front, self.back), (self.back, self.front)):
                if source.poll(1):
                    *head, body = source.recv_multipart()
                    peer = head[0] if head else peer
                    for message in self.fate(body, late[source]):
                        target.send_multipart([peer, message] if target is self.front else [message])

    def fate(self, body: bytes, late: list[bytes]) -> list[bytes]:
        what = self.random.choices(list(self.counts), (1, 1, 1, 7))[0]
        self.counts[what] += 1
        if what == "swapped":
            late.append(body)
            return []
        out = [body] * {"lost": 0, "doubled": 2, "passed": 1}[what] + late
        late.clear()
        return out

    def close(self) -> None:
        self.stopping.set()
        self.thread.join()
        self.front.close(0)
        self.back.close(0)
        self.context.term()


@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_loses_doubles_and_swaps(tmp_path, receiver, seed):
    numbers: list[int] = []
    with (
        contextlib.closing(LossyNetwork(receiver.address, seed)) as network,
        RecordSender(network.address, tmp_path, "robot", heartbeat_s=0.02) as sender,
    ):
        for n in range(1, 301):
            assert sender.send({"n": n}) == n
            if n % 3 == 0:  # many small batches
                wait_until(lambda n=n: sender._next > n)
                while (received := receiver.receive(0.0)) is not None:
                    received.acknowledge()
                    numbers.append(received.record["n"])
        numbers += take(receiver, 300 - len(numbers))
        assert sender.flush(30.0)
        assert (sender.sent, sender.acknowledged, sender.pending) == (300, 300, 0)
    assert numbers == list(range(1, 301))
    assert min(network.counts.values()) > 0
    assert receiver.lost == 0


def test_a_slow_learner_holds_up_nobody_and_overflows_nothing(tmp_path, receiver):
    """More than the window, and then more bytes than the window."""
    with RecordSender(receiver.address, tmp_path, "robot") as sender:
        for n in range(1, 3001):
            sender.send({"n": n})
        for n in range(3001, 3061):
            sender.send({"n": n, "frames": np.zeros((1, 1000, 1000), np.uint8)})
        wait_until(lambda: sender._room == 0)
        assert sum(s.waiting for s in receiver._streams.values()) <= 2048
        wait_until(lambda: sender.connected)
        assert take(receiver, 3060) == list(range(1, 3061))
        assert sender.flush(30.0)


def test_senders_share_a_receiver_from_many_threads(tmp_path, receiver):
    def work(sender: RecordSender) -> None:
        for _ in range(100):
            sender.send({"robot": sender._name})

    senders = [RecordSender(receiver.address, tmp_path / name, name) for name in ("left", "right")]
    threads = [threading.Thread(target=work, args=[sender]) for sender in senders * 3]
    for thread in threads:
        thread.start()
    got: dict[str, list[int]] = {"left": [], "right": []}
    for _ in range(600):
        received = receiver.receive(30.0)
        assert received is not None
        assert received.record["robot"] == received.sender
        got[received.sender].append(received.sequence)
        received.acknowledge()
    for thread in threads:
        thread.join()
    assert got == {name: list(range(1, 301)) for name in got}
    assert set(receiver.peers_age_s) == {"left", "right"}
    for sender in senders:
        assert sender.flush(30.0)
        sender.close()


def test_acknowledgement_is_cumulative_and_the_rest_comes_again(tmp_path):
    with RecordSender("tcp://127.0.0.1:1", tmp_path / "spool", "robot"):
        pass  # only makes the spool
    with RecordReceiver(ANY_PORT, tmp_path / "state") as first:
        address = first.address
        sender = RecordSender(address, tmp_path / "spool", "robot", heartbeat_s=0.05)
        for n in range(1, 11):
            sender.send({"n": n})
        received = [first.receive(30.0) for _ in range(10)]
        received[6].acknowledge()
        received[2].acknowledge()  # says nothing new
        wait_until(lambda: sender.acknowledged == 7)
        assert not sender.flush(0.0)
    wait_until(lambda: not sender.connected)
    with RecordReceiver(address, tmp_path / "state") as second:
        assert take(second, 3) == [8, 9, 10]
        assert sender.flush(30.0)
        assert second.lost == 0
    with pytest.raises(LinkError, match="closed"):
        received[9].acknowledge()
    sender.close()


def test_an_old_copy_of_a_spool_is_found_out(tmp_path, receiver):
    with RecordSender(receiver.address, tmp_path / "spool", "robot") as sender:
        for n in range(1, 6):
            sender.send({"n": n})
        take(receiver, 5)
        assert sender.flush(30.0)
    for path in (tmp_path / "spool").glob("*"):
        if path.name != "identity.json":
            path.unlink()
    with RecordSender(receiver.address, tmp_path / "spool", "robot") as sender:
        wait_until(lambda: sender._failure)
        with pytest.raises(StorageError, match="old copy"):
            sender.send({"n": 1})


# -- weights and addresses -----------------------------------------------------------------------------


def test_weights_arrive_whole_and_newest_first(tmp_path):
    rng = np.random.default_rng(0)
    with WeightsPublisher(ANY_PORT) as publisher, WeightsSubscriber(publisher.address, heartbeat_s=0.05) as subscriber:
        wait_until(lambda: subscriber.connected and publisher.connected)
        assert subscriber.latest() is None
        arrays = {"actor": {"kernel": rng.random((700, 700)), "empty": {}}, "steps": np.int64(3)}
        expected = arrays["actor"]["kernel"].copy()
        publisher.publish("one", arrays, {"success": 0.5})
        arrays["actor"]["kernel"][:] = 0.0
        weights = subscriber.wait_for("one", 30.0)
        assert weights is subscriber.latest()
        np.testing.assert_array_equal(weights.arrays["actor"]["kernel"], expected)
        assert weights.arrays["actor"]["empty"] == {}
        assert weights.metadata == {"success": 0.5}
        for version in ("two", "three"):
            publisher.publish(version, {"w": np.zeros(3)}, {})
        assert subscriber.wait_for("three", 30.0).version == "three"
        assert subscriber.wait_for("two", 0.0) is None
        assert len(publisher.peers_age_s) == 1


@pytest.mark.parametrize("arrays", [{"a": "text"}, {"a": [1.0]}, {"a": {"b": None}}, [1], {"a": np.array(["x"])}])
def test_only_arrays_can_be_published(arrays):
    with WeightsPublisher(ANY_PORT) as publisher:
        with pytest.raises(LinkError):
            publisher.publish("v", arrays, {})
        with pytest.raises(LinkError, match="version"):
            publisher.publish("", {}, {})


@contextlib.contextmanager
def subscriber_of_a_test():
    """A subscriber, and a function that sends it whatever a test wants to offer."""
    context = zmq.Context()
    server = context.socket(zmq.ROUTER)
    address = f"tcp://127.0.0.1:{server.bind_to_random_port('tcp://127.0.0.1')}"
    with WeightsSubscriber(address, heartbeat_s=0.05) as subscriber:
        assert server.poll(30_000)
        peer = server.recv_multipart()[0]

        def offer(digest: str, size: int, offset: int, chunk: bytes) -> None:
            fields = {"digest": digest, "bytes": size, "offset": offset, "chunk": chunk}
            server.send_multipart([peer, encode({"kind": "pld.offer.1", **fields})])

        yield subscriber, offer
    server.close(0)
    context.term()


def test_hostile_weights_are_refused():
    with subscriber_of_a_test() as (subscriber, offer):
        offer("d", 2**40, 0, b"")
        offer("a", 3, 0, b"")
        offer("a", 3, 0, b"abc")  # not its digest
        text = encode({"kind": "pld.weights.1", "version": "v", "arrays": {"w": "text"}, "metadata": {}})
        digest = hashlib.sha256(text).hexdigest()
        offer(digest, len(text), 0, b"")
        offer(digest, len(text), 0, text)
        wait_until(lambda: subscriber.rejected == 3)
        assert subscriber.latest() is None
        assert subscriber.connected


def test_chunks_that_come_twice_or_late_are_left_out():
    data = encode({"kind": "pld.weights.1", "version": "v", "arrays": {"w": np.arange(99)}, "metadata": {}})
    digest = hashlib.sha256(data).hexdigest()
    with subscriber_of_a_test() as (subscriber, offer):
        offer(digest, len(data), 0, b"")
        for start, end in ((0, 0), (100, 200), (0, 100), (0, 100), (200, 300), (100, 200), (200, None), (0, 100)):
            offer(digest, len(data), start, data[start:end])
        weights = subscriber.wait_for("v", 30.0)
        assert weights is not None
        np.testing.assert_array_equal(weights.arrays["w"], np.arange(99))
        assert subscriber.rejected == 0


def test_addresses():
    for kind in (RecordReceiver, WeightsPublisher):
        assert inspect.signature(kind).parameters["address"].default.startswith("tcp://127.0.0.1:")
        for address in ("", "127.0.0.1:5757", "tcp://127.0.0.1", "inproc://x", "tcp://:1"):
            with pytest.raises(LinkError, match="tcp://HOST:PORT"):
                kind(address)
        with kind("tcp://127.0.0.1:0") as first:
            assert int(first.address.rsplit(":", 1)[1]) > 0
            with pytest.raises(LinkError, match="Is another one running there"):
                kind(first.address)


def test_names_limits_and_what_is_closed(tmp_path):
    for name in ("", "../x", "a b", "x" * 65, "a.b"):
        with pytest.raises(LinkError, match="Sender name"):
            RecordSender("tcp://127.0.0.1:1", tmp_path, name)
    for options in ({"spool_limit_bytes": 0}, {"heartbeat_s": 0.0}, {"heartbeat_s": math.nan}):
        with pytest.raises(LinkError, match="positive"):
            RecordSender("tcp://127.0.0.1:1", tmp_path, "robot", **options)
    sender = RecordSender("tcp://127.0.0.1:1", tmp_path, "robot")
    assert (sender.connected, sender.peer_age_s) == (False, math.inf)
    with pytest.raises(LinkError, match="dictionary"):
        sender.send([1])  # type: ignore[arg-type]
    with pytest.raises(LinkError, match="object"):
        sender.send({"a": object()})
    assert (sender.send({"a": 1}), sender.flush(0.0), sender.pending) == (1, False, 1)
    sender.close()
    sender.close()
    with pytest.raises(LinkError, match="closed"):
        sender.send({"a": 1})
    assert sender.pending == 1
