"""What a sender keeps on disk until it is acknowledged."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from pld_core.errors import LinkError, StorageError
from pld_core.link.spool import Spool


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
