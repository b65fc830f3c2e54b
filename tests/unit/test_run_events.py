"""TensorBoard events of a run: no point twice, and a full disk neither blocks nor hides the error."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from pld_core import events as event_files
from pld_core.config import load_config
from pld_core.errors import StorageError
from pld_core.runlog import RunLog


def config(tmp_path, **overrides):
    return load_config("debug", {"runs_dir": str(tmp_path / "runs"), "name": "r", **overrides})


def events(run_dir: Path, stage: str) -> list:
    """All events of a stage in the order in which TensorBoard reads them."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((run_dir / "tensorboard" / stage).iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (size,) = struct.unpack_from("<Q", content, at)
            found.append(Event.FromString(content[at + 12 : at + 12 + size]))
            at += 12 + size + 4
    return found


def curve(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard shows: a restart forgets every point from its step on."""
    points: list[tuple[int, float]] = []
    for event in events(run_dir, tag.partition("/")[0]):
        if event.session_log.status == event.session_log.START:
            points = [point for point in points if point[0] < event.step]
        points += [(event.step, value.simple_value) for value in event.summary.value if value.tag == tag]
    return points


def test_events_hold_the_numbers_and_a_resumed_run_shows_no_point_twice(tmp_path):
    with RunLog(config(tmp_path)) as run:
        for step in (1, 2, 3):
            run.log("learn", step, loss=0.5 * step, note="text is not a curve")
            run.log("calql", step, loss=2.0)
    assert curve(run.dir, "learn/loss") == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert events(run.dir, "learn")[0].file_version == "brain.Event:2"
    assert not curve(run.dir, "learn/note")
    with RunLog(config(tmp_path)) as again:
        again.rewind("learn", 2)
        again.rewind("calql", 1)
        again.rewind("distill", -1)  # never began
        again.log("learn", 3, loss=0.25)
    assert curve(run.dir, "calql/loss") == [(1, 2.0)]
    assert not (run.dir / "tensorboard" / "distill").exists()
    assert curve(run.dir, "learn/loss") == [(1, 0.5), (2, 1.0), (3, 0.25)]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_too_full_for_events_neither_blocks_nor_keeps_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(event_files, "_file_name", lambda: "/dev/full")
    with RunLog(config(tmp_path)) as run:
        with pytest.warns(UserWarning, match="No more TensorBoard events.*No space left"):
            run.log("learn", 1, loss=1.0)
        for step in range(2, 50):  # more than any queue holds, and no second warning
            run.log("learn", step, loss=1.0)
    assert len(run.rows()) == 49
    RunLog(config(tmp_path)).close()


def test_the_error_of_a_full_disk_is_not_replaced_and_the_lock_is_free(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = RunLog(config(tmp_path))
    run.begin_stage("learn")

    def work():
        with run:
            run.log("learn", 1, loss=1.0)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"metrics\.jsonl: the disk is full"):
            work()
    RunLog(config(tmp_path)).close()
