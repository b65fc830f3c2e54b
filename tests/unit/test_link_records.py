"""Records from senders to a receiver in one process: duplicates, gaps, lossy networks, hostile messages."""

from __future__ import annotations

import contextlib
import pickle
import random
import threading

import numpy as np
import pytest
import zmq
from link_tools import ANY_PORT, wait_until

from pld_core.errors import LinkError, StorageError
from pld_core.link import RecordReceiver, RecordSender, encode
from pld_core.link.records import pack_batch, unpack_status

SPOOL = "0" * 32


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
