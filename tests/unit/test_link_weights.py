"""Weights from a publisher to its subscribers in one process, and the addresses of both directions."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math

import numpy as np
import pytest
import zmq
from link_tools import ANY_PORT, wait_until

from pld_core.errors import LinkError
from pld_core.link import RecordReceiver, RecordSender, WeightsPublisher, WeightsSubscriber, encode


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
