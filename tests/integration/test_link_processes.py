"""The actor-learner link between processes that are killed: each record once, in order, none lost."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import socket
import time
from pathlib import Path

import numpy as np

from pld_core.errors import StorageError
from pld_core.link import RecordReceiver, RecordSender, WeightsPublisher, WeightsSubscriber

ROW = 370  # floats in a record: about 1.5 kB
PROCESSES = multiprocessing.get_context("forkserver")  # imports once, so that a process starts at once

# -- the programs --------------------------------------------------------------------------------------


def record(number: int) -> dict:
    return {"number": number, "row": np.full(ROW, number, np.float32)}


def learner(address: str, state: Path | None, log: Path) -> None:
    """Writes ``got SENDER SEQUENCE NUMBER``, acknowledges, writes ``ack SENDER SEQUENCE``."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with RecordReceiver(address, state) as receiver:
        os.write(file, b"start\n")
        while os.getppid() != 1:
            received = receiver.receive(0.2)
            if received is None:
                os.write(file, b"lost %d\n" % receiver.lost)
                continue
            number = received.record["number"]
            assert np.array_equal(received.record["row"], record(number)["row"])
            key = f"{received.sender} {received.sequence}"
            os.write(file, f"got {key} {number}\n".encode())
            received.acknowledge()
            os.write(file, f"ack {key}\n".encode())


def robot(address: str, spool: Path, name: str, total: int) -> None:
    """Sends the records up to ``total`` that processes before it have not sent; notes each number."""
    notes = os.open(f"{spool}.notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with RecordSender(address, spool, name, heartbeat_s=0.1) as sender:
        for number in range(sender.sent + 1, total + 1):
            assert sender.send(record(number)) == number
            os.write(notes, b"%d\n" % number)
        assert sender.flush(60.0)
        assert sender.pending == 0


def publisher(address: str, version: str, value: float) -> None:
    with WeightsPublisher(address) as link:
        link.publish(version, {"layer": {"w": np.full((500, 400), value, np.float32)}}, {"steps": 7})
        while os.getppid() != 1:
            time.sleep(0.1)


# -- starting, killing, counting -----------------------------------------------------------------------


@contextlib.contextmanager
def running(program, *arguments: object):
    """A process that is killed at the end, whatever it does then."""
    PROCESSES.set_forkserver_preload(["pld_core.link"])
    process = PROCESSES.Process(target=program, args=arguments, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()  # signal 9
        process.join()
        process.close()


def ended_well(process) -> bool:
    process.join(60.0)
    return process.exitcode == 0


def free_address() -> str:
    """Below the ports that outgoing connections use, so that it is still free after a restart."""
    for port in range(20_000 + os.getpid() % 5000, 32_000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return f"tcp://127.0.0.1:{port}"
    raise RuntimeError("no free port")


def wait_until(condition, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def noted(spool: Path) -> int:
    """The last number that was sent with this spool, as its senders have noted."""
    notes = Path(f"{spool}.notes")
    return int((notes.read_text().split() or [0])[-1]) if notes.exists() else 0


def delivered(log: Path) -> int:
    return log.read_bytes().count(b"got ") if log.exists() else 0


def check_log(log: Path, totals: dict[str, int]) -> None:
    """Each sender's records came in order, all of them, and none again after it was acknowledged.

    Only the one record that was under way when the learner died may be there twice: got, but killed
    before it could say that it had acknowledged it.
    """
    last_got, last_acknowledged = dict.fromkeys(totals, 0), dict.fromkeys(totals, 0)
    first = False
    restarted: set[str] = set()
    for kind, *rest in map(str.split, log.read_text().splitlines()):
        if kind == "start":
            restarted = set(totals) if first else set()
            first = True
        elif kind == "lost":
            assert rest == ["0"]
        elif kind == "ack":
            last_acknowledged[rest[0]] = int(rest[1])
        else:
            sender, sequence, number = rest[0], int(rest[1]), int(rest[2])
            assert sequence == number
            again = sender in restarted and sequence == last_got[sender] == last_acknowledged[sender] + 1
            assert again or sequence == last_got[sender] + 1, f"{sequence} after {last_got[sender]} of {sender}"
            restarted.discard(sender)
            last_got[sender] = sequence
    assert last_got == last_acknowledged == totals


# -- records -------------------------------------------------------------------------------------------


def test_killed_learners_get_every_record_once(tmp_path):
    """The learner is absent at first, then killed twice in the middle; two robots send all the time."""
    address, log, state = free_address(), tmp_path / "log", tmp_path / "state"
    totals = {"left": 2500, "right": 2500}
    with contextlib.ExitStack() as stack:
        robots = [stack.enter_context(running(robot, address, tmp_path / name, name, n)) for name, n in totals.items()]
        wait_until(lambda: all((tmp_path / name / "identity.json").exists() for name in totals))
        for deaths in (1, 2):
            with running(learner, address, state, log):
                wait_until(lambda deaths=deaths: delivered(log) > 1200 * deaths)
        with running(learner, address, state, log):
            assert all(map(ended_well, robots))
    check_log(log, totals)


def test_a_learner_that_never_came_and_one_without_memory(tmp_path):
    """A robot is killed before any learner was there; its spool goes to a learner that keeps no state."""
    address, log = free_address(), tmp_path / "log"
    with running(robot, address, tmp_path / "spool", "robot", 500):
        wait_until(lambda: noted(tmp_path / "spool") == 500)
    with (
        running(robot, address, tmp_path / "spool", "robot", 600) as process,
        running(learner, address, None, log),
    ):
        assert ended_well(process)
    check_log(log, {"robot": 600})


def test_killed_senders_go_on_with_their_spool(tmp_path):
    """What ``send`` has numbered is delivered, whatever becomes of the sender."""
    address, log, spool = free_address(), tmp_path / "log", tmp_path / "spool"
    total = 4000
    with running(learner, address, tmp_path / "state", log):
        for killed_at in (700, 1500, 2500):
            with running(robot, address, spool, "robot", total):
                wait_until(lambda killed_at=killed_at: noted(spool) >= killed_at)
            with RecordSender("tcp://127.0.0.1:1", spool, "robot") as sender:
                assert noted(spool) <= sender.sent <= noted(spool) + 1
        with running(robot, address, spool, "robot", total) as process:
            assert ended_well(process)
    check_log(log, {"robot": total})


def test_both_die_again_and_again(tmp_path):
    address, log, spool = free_address(), tmp_path / "log", tmp_path / "spool"
    total = 2000
    for deaths in (1, 2):
        with (
            running(robot, address, spool, "robot", total),
            running(learner, address, tmp_path / "state", log) as first,
        ):
            wait_until(lambda deaths=deaths: delivered(log) > 600 * deaths - 300)
            first.kill()
            first.join()
            with running(learner, address, tmp_path / "state", log):
                wait_until(lambda deaths=deaths: delivered(log) > 600 * deaths)
    with running(learner, address, tmp_path / "state", log), running(robot, address, spool, "robot", total) as last:
        assert ended_well(last)
    check_log(log, {"robot": total})


def refuse_from(sender: RecordSender, first: int) -> int:
    """Send until the disk refuses; returns the number of the record that has to be sent again."""
    number = first
    try:
        while True:
            assert sender.send(record(number)) == number
            number += 1
    except StorageError:
        return number


def test_a_full_spool_and_then_a_learner(tmp_path):
    address, log = free_address(), tmp_path / "log"
    with RecordSender(address, tmp_path / "spool", "robot", spool_limit_bytes=300_000, heartbeat_s=0.1) as sender:
        number = refuse_from(sender, 1)
        assert 150 < number < 200
        assert sender.sent == sender.pending == number - 1
        with running(learner, address, tmp_path / "state", log):
            for _ in range(5):
                assert sender.flush(60.0)
                number = refuse_from(sender, number)
            assert sender.flush(60.0)
    check_log(log, {"robot": number - 1})


def test_a_full_disk_and_then_a_learner(tmp_path, monkeypatch):
    """The disk takes half a record and then no more; the sender dies; its spool holds all it had taken."""
    address, log = free_address(), tmp_path / "log"
    real, room = os.pwrite, 100_000

    def full_disk(file: int, data: bytes, offset: int) -> int:
        nonlocal room
        if len(data) > 8:  # not the marks, which have their room already
            if room == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[:room]
            room -= len(data)
        return real(file, data, offset)

    with RecordSender(address, tmp_path / "spool", "robot") as sender:
        monkeypatch.setattr(os, "pwrite", full_disk)
        number = refuse_from(sender, 1)
        assert refuse_from(sender, number) == number
        monkeypatch.undo()
        assert sender.pending == number - 1 > 50
    with (
        running(learner, address, tmp_path / "state", log),
        running(robot, address, tmp_path / "spool", "robot", 200) as process,
    ):
        assert ended_well(process)
    check_log(log, {"robot": 200})


# -- weights -------------------------------------------------------------------------------------------


def mean(link: WeightsSubscriber, version: str) -> float:
    """Of the weights, once this version has arrived."""
    weights = link.wait_for(version, 60.0)
    assert weights is not None
    assert weights.metadata == {"steps": 7}
    return float(weights.arrays["layer"]["w"].mean())


def test_weights_for_late_joiners_and_after_a_restart_of_the_learner():
    address = free_address()
    with WeightsSubscriber(address, heartbeat_s=0.05) as early:
        assert early.latest() is None
        with running(publisher, address, "v1", 1.0):
            assert mean(early, "v1") == 1.0
            assert early.connected
            with WeightsSubscriber(address, heartbeat_s=0.05) as late:
                assert mean(late, "v1") == 1.0
        wait_until(lambda: not early.connected)
        assert mean(early, "v1") == 1.0  # the robot keeps what it has
        with running(publisher, address, "v2", 2.0):
            assert mean(early, "v2") == 2.0
            with WeightsSubscriber(address, heartbeat_s=0.05) as late:
                assert mean(late, "v2") == 2.0


def test_a_publisher_that_dies_during_a_transfer():
    """Never half a version: what arrived before stays until the next one is complete."""
    address = free_address()
    big = {"w": np.arange(4_000_000, dtype=np.float32)}
    with WeightsSubscriber(address, heartbeat_s=0.05) as link:
        with running(publisher, address, "v1", 1.0):
            assert link.wait_for("v1", 60.0)
        with WeightsPublisher(address) as dying:
            dying.publish("v2", big, {})
            wait_until(lambda: link._fetching or link._latest.version == "v2")
        kept = link.latest()
        assert kept is not None
        assert kept.version in ("v1", "v2")
        with WeightsPublisher(address) as again:
            again.publish("v2", big, {})
            weights = link.wait_for("v2", 60.0)
        assert weights is not None
        np.testing.assert_array_equal(weights.arrays["w"], big["w"])


def test_heartbeats_both_ways(tmp_path):
    with RecordReceiver("tcp://127.0.0.1:*") as receiver:
        assert not receiver.connected
        with running(robot, receiver.address, tmp_path / "spool", "robot", 1):
            received = receiver.receive(60.0)
            assert received is not None
            assert receiver.connected
            assert receiver.peer_age_s < receiver.peers_age_s["robot"] + 1.0
        wait_until(lambda: not receiver.connected)
        with RecordSender(receiver.address, tmp_path / "spool", "robot", heartbeat_s=0.05) as sender:
            wait_until(lambda: sender.connected and receiver.connected)
            assert sender.sent == 1
