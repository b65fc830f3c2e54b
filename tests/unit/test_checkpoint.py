"""Checkpoints: exact, verified, and never worse than the one before."""

from __future__ import annotations

import errno
import os
import warnings

import numpy as np
import pytest

from pld_core.checkpoint import load_checkpoint, previous_path, save_checkpoint
from pld_core.errors import CheckpointError, StorageError


def arrays(value: float = 1.0) -> dict:
    return {
        "weights": {"kernel": np.full((3, 4), value, np.float32), "empty": {}, "none": np.zeros((0, 5))},
        "count": np.int64(7),
        "mask": np.array([True, False]),
        "frames": np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[:, ::2],  # not contiguous
    }


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, dict):
            assert_same(value, b[key])
        else:
            np.testing.assert_array_equal(value, b[key])
            assert np.asarray(value).dtype == b[key].dtype


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "learner.ckpt"
    save_checkpoint(path, arrays(), {"steps": np.int64(3), "name": "peg", "rate": 0.5, "list": [1, None]})
    loaded, metadata = load_checkpoint(path)
    assert_same(arrays(), loaded)
    assert metadata == {"steps": 3, "name": "peg", "rate": 0.5, "list": [1, None]}
    loaded["weights"]["kernel"][0, 0] = 5.0  # loaded arrays can be written to


def test_jax_arrays_can_be_saved(tmp_path):
    jnp = pytest.importorskip("jax.numpy")
    save_checkpoint(tmp_path / "c", {"x": jnp.arange(3.0)}, {})
    np.testing.assert_array_equal(load_checkpoint(tmp_path / "c")[0]["x"], [0.0, 1.0, 2.0])


def test_random_generators_go_on_where_they_were(tmp_path):
    rng, restored = np.random.default_rng(4), np.random.default_rng(5)
    rng.random(3)
    save_checkpoint(tmp_path / "c", {}, {"rng": rng.bit_generator.state})
    restored.bit_generator.state = load_checkpoint(tmp_path / "c")[1]["rng"]
    np.testing.assert_array_equal(restored.integers(0, 1000, 20), rng.integers(0, 1000, 20))


def test_the_last_two_are_kept_and_nothing_else(tmp_path):
    path = tmp_path / "c.ckpt"
    for i in range(4):
        save_checkpoint(path, arrays(i), {"i": i})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.ckpt", "c.ckpt.previous"]
    assert load_checkpoint(path)[1]["i"] == 3
    assert load_checkpoint(previous_path(path))[1]["i"] == 2


def damage(path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        del content[-100:]
    elif how == "empty":
        content.clear()
    elif how == "foreign":
        content[:8] = b"PK\x03\x04\0\0\0\0"
    else:
        content[len(content) // 2] ^= 1  # one flipped bit
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "empty", "foreign", "flipped"])
def test_damage_is_found_and_the_previous_one_steps_in(tmp_path, how):
    path = tmp_path / "c.ckpt"
    save_checkpoint(path, arrays(), {"i": 0})
    damage(path, how)
    with pytest.raises(CheckpointError, match=r"c\.ckpt"):
        load_checkpoint(path)
    save_checkpoint(path, arrays(), {"i": 1})
    save_checkpoint(path, arrays(), {"i": 2})
    damage(path, how)
    with pytest.warns(UserWarning, match="previous checkpoint"):
        assert load_checkpoint(path)[1]["i"] == 1
    damage(previous_path(path), how)
    with pytest.raises(CheckpointError, match="previous one is no help"):
        load_checkpoint(path)


def test_every_possible_truncation_is_found(tmp_path):
    path = tmp_path / "c"
    save_checkpoint(path, {"x": np.arange(4)}, {})
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path):
    path = tmp_path / "c"
    save_checkpoint(path, {}, {"i": 1})
    os.replace(path, previous_path(path))
    with pytest.warns(UserWarning, match="previous"):
        assert load_checkpoint(path)[1]["i"] == 1


def test_a_missing_checkpoint_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        load_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_previous_one(tmp_path, monkeypatch, call):
    path = tmp_path / "c"
    save_checkpoint(path, arrays(), {"i": 1})

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(StorageError, match=str(path)):
            save_checkpoint(path, arrays(), {"i": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_checkpoint(path)[1]["i"] == 1
    assert not [p for p in tmp_path.iterdir() if p.name.endswith((".tmp", ".link"))]


def test_works_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_args):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for i in range(3):
        save_checkpoint(tmp_path / "c", {}, {"i": i})
    assert load_checkpoint(tmp_path / "c")[1]["i"] == 2
    assert load_checkpoint(previous_path(tmp_path / "c"))[1]["i"] == 1


def test_refuses_what_it_cannot_store(tmp_path):
    with pytest.raises(CheckpointError, match="weights/name"):
        save_checkpoint(tmp_path / "c", {"weights": {"name": "text"}}, {})
    with pytest.raises(CheckpointError, match="strings"):
        save_checkpoint(tmp_path / "c", {1: np.zeros(2)}, {})  # type: ignore[dict-item]
    with pytest.raises(CheckpointError, match="metadata"):
        save_checkpoint(tmp_path / "c", {}, {"x": object()})
    assert not list(tmp_path.iterdir())
