"""The episode store: exact, append-only, and healed after every kind of crash."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import StorageError
from pld_core.types import EXPERT_TICK, RESIDUAL_TICK, Episode, EpisodeSpec


def make_episode(seed: int, ticks: int = 4, success: bool = True) -> Episode:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.uniform(-1, 1, shape).astype(np.float32)

    source = np.zeros(ticks, np.uint8)
    source[1:] = RESIDUAL_TICK
    source[-1] = EXPERT_TICK
    return Episode(
        spec=EpisodeSpec("peg_insertion", seed, "probe", t_base=1, xi=0.3, explore=True),
        instruction="insert the peg",
        proprio=draw(ticks + 1, 3),
        state=draw(ticks + 1, 5),
        images={"wrist": rng.integers(0, 255, (ticks + 1, 8, 8, 3), dtype=np.uint8)},
        base_action=draw(ticks + 1, 2),
        residual=draw(ticks, 2),
        action=draw(ticks, 2),
        reward=draw(ticks),
        source=source,
        intervention=source == EXPERT_TICK,
        terminated=success,
        truncated=not success,
        success=success,
        policy_version="abc123",
    )


def assert_same(a: Episode, b: Episode) -> None:
    assert a.spec == b.spec
    for name in ("instruction", "terminated", "truncated", "success", "policy_version", "voided"):
        assert getattr(a, name) == getattr(b, name)
    for name in ("proprio", "state", "base_action", "residual", "action", "reward", "source", "intervention"):
        x, y = getattr(a, name), getattr(b, name)
        np.testing.assert_array_equal(x, y)
        assert x.dtype == y.dtype
    assert a.images.keys() == b.images.keys()
    for camera, frames in a.images.items():
        np.testing.assert_array_equal(frames, b.images[camera])


@pytest.fixture
def store(tmp_path):
    store = EpisodeStore(tmp_path / "store")
    for seed in range(3):
        store.append(make_episode(seed, 4 + seed, success=seed != 1), attempt=seed, git_revision="f00")
    return store


def index(store):
    return [json.loads(line) for line in store.index_path.read_text().splitlines()]


def seeds(folder):
    """Of the episodes that a reader finds."""
    return [episode.spec.seed for episode in EpisodeStore(folder)]


def test_round_trip(store):
    assert len(store) == 3
    for seed, episode in enumerate(EpisodeStore(store.folder)):
        assert_same(make_episode(seed, 4 + seed, success=seed != 1), episode)


def test_metadata_and_index_need_no_episode_file(store):
    for path in store.folder.glob("*.npz"):
        path.chmod(0)
    assert [m["attempt"] for m in store.metadata()] == [0, 1, 2]
    first, *others = index(store)
    assert [line["ticks"] for line in (first, *others)] == [4, 5, 6]
    assert [line["success"] for line in (first, *others)] == [True, False, True]
    assert (first["spec"]["mode"], first["policy_version"]) == ("probe", "abc123")
    assert first["source_ticks"] == {"base": 1, "residual": 2, "expert": 1}
    assert first["spec"]["t_base"] == 1


def test_a_file_without_an_index_line_is_indexed(store):
    """Crash after the episode's file got its name and before its line was written."""
    lines = store.index_path.read_bytes().splitlines(keepends=True)
    store.index_path.write_bytes(b"".join(lines[:-1]))
    assert len(EpisodeStore(store.folder)) == 3
    assert store.index_path.read_bytes().splitlines(keepends=True) == lines


@pytest.mark.parametrize("left", [1, 20, -1])
def test_a_half_written_line_is_dropped_and_rebuilt(store, left):
    content = store.index_path.read_bytes()
    start = content.rstrip(b"\n").rfind(b"\n") + 1
    store.index_path.write_bytes(content[: start + left] if left > 0 else content[:left])
    healed = EpisodeStore(store.folder)
    assert store.index_path.read_bytes() == content
    healed.append(make_episode(9))
    assert seeds(store.folder) == [0, 1, 2, 9]


def test_the_index_can_be_lost_altogether(store):
    content = store.index_path.read_bytes()
    store.index_path.unlink()
    assert len(EpisodeStore(store.folder)) == 3
    assert store.index_path.read_bytes() == content


@pytest.mark.parametrize("indexed", [True, False])
def test_a_truncated_file_is_moved_aside(store, indexed):
    path = sorted(store.folder.glob("*.npz"))[1]
    path.write_bytes(path.read_bytes()[:-30])
    if not indexed:
        store.index_path.unlink()
    with pytest.warns(UserWarning, match="damaged"):
        healed = EpisodeStore(store.folder)
    assert [episode.spec.seed for episode in healed] == [0, 2]
    assert (store.folder / "corrupt" / path.name).exists()
    added = healed.append(make_episode(7))
    assert added.name == "episode-00000003.npz"
    assert len(EpisodeStore(store.folder)) == 3  # and silently so: healing happens once


def test_a_flipped_bit_is_found_while_reading(store):
    path = sorted(store.folder.glob("*.npz"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(content)
    opened = EpisodeStore(store.folder)
    with pytest.warns(UserWarning, match="moved to"):
        assert [episode.spec.seed for episode in opened] == [1, 2]
    assert len(opened) == 2


def test_a_deleted_file_is_reported(store):
    sorted(store.folder.glob("*.npz"))[0].unlink()
    with pytest.warns(UserWarning, match="episode-00000000"):
        assert len(EpisodeStore(store.folder)) == 2


def test_leftovers_of_a_killed_writer_are_removed(store):
    leftover = store.folder / ".episode-00000003.npz.1.tmp"
    leftover.write_bytes(b"half")
    EpisodeStore(store.folder, read_only=True)
    assert leftover.exists()
    EpisodeStore(store.folder)
    assert not leftover.exists()


def test_a_reader_changes_nothing(store):
    store.index_path.write_bytes(store.index_path.read_bytes()[:-5])
    before = {p.name: p.read_bytes() for p in store.folder.iterdir()}
    reader = EpisodeStore(store.folder, read_only=True)
    assert len(reader) == 3
    assert {p.name: p.read_bytes() for p in store.folder.iterdir()} == before
    with pytest.raises(StorageError, match="reading only"):
        reader.append(make_episode(1))
    assert len(EpisodeStore(store.folder / "nothing", read_only=True)) == 0
    assert not (store.folder / "nothing").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("failing_call", [1, 2])  # the episode's file, the index
def test_a_failed_append_leaves_what_was_there(store, monkeypatch, code, failing_call):
    before = {p.name: p.read_bytes() for p in store.folder.iterdir()}
    calls, sync = [], os.fsync

    def failing(handle: int) -> None:
        calls.append(handle)
        if len(calls) == failing_call:
            raise OSError(code, os.strerror(code))
        sync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        with pytest.raises(StorageError, match="intact"):
            store.append(make_episode(5))
    assert {p.name: p.read_bytes() for p in store.folder.iterdir()} == before
    store.append(make_episode(5))
    assert seeds(store.folder) == [0, 1, 2, 5]


def test_nothing_is_pickled(store):
    with np.load(next(store.folder.glob("*.npz")), allow_pickle=False) as arrays:
        record = json.loads(str(arrays["record"]))
    assert record["spec"]["mode"] == "probe"
