"""A base is made of data that a kill does not cost."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pld_core.config import BaseConfig, TrainConfig
from pld_core.errors import StageError
from pld_core.stages import base_data
from pld_core.stages.base import make_base
from pld_core.stages.base_data import BaseData
from pld_core.stages.demonstrate import MOST_ATTEMPTS, demonstrate
from pld_core.types import Episode
from pld_core.vla.compact_vla import CompactVLA
from pld_core.vla.frames import GroundingFrames, collect_grounding_frames

TASKS = ("peg_insertion", "cube_pickup")
BASE = BaseConfig(tasks=TASKS, grounding_frames=40, grounding_steps=2, demonstrations=(1, 1), steps=2, batch_size=4)
CONFIG = TrainConfig(base=BASE, lanes=2, seed=3)


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames were asked for each time; the third time the process is killed."""
    calls: list[int] = []

    def collect(environments: Any, frames: int, seed: int, every: int) -> GroundingFrames:
        calls.append(frames)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return collect_grounding_frames(environments, frames, seed, every)

    monkeypatch.setattr(base_data, "collect_grounding_frames", collect)
    return calls


def test_what_was_collected_before_a_kill_is_taken_over(tmp_path: Path, collected: list[int]) -> None:
    path = tmp_path / "base.vla"
    with pytest.raises(KeyboardInterrupt):
        make_base(CONFIG, path)
    assert not path.exists()
    shown: list[str] = []
    made = make_base(CONFIG, path, lambda phase, done, loss: shown.append(phase))
    assert collected == [40, 8, 40, 40, 8]  # the first task's only once
    assert CompactVLA.load(path).version == made.version
    assert [phase for phase in shown if "mm" in phase] == [f"error in mm near the target of {task}" for task in TASKS]
    assert [entry.name for entry in tmp_path.iterdir()] == ["base.vla"]  # it needs the data no more
    other = make_base(CONFIG, tmp_path / "without_a_kill.vla")
    assert other.version == made.version


def test_more_demonstrations_go_on_where_fewer_ended(tmp_path: Path) -> None:
    data = BaseData(tmp_path, CONFIG)
    (one,) = data.of("cube_pickup", 1).demonstrations
    again, second = data.of("cube_pickup", 2).demonstrations
    np.testing.assert_array_equal(one.action, again.action)
    assert second.spec.seed > one.spec.seed
    assert all(episode.success for episode in (one, second))


def test_frames_survive_the_disk_bit_for_bit(tmp_path: Path) -> None:
    data = BaseData(tmp_path, CONFIG)
    first, second = data.of("cube_pickup", 1).frames, data.of("cube_pickup", 1).frames
    environments = base_data.bring.environment_factory("cube_pickup")(2)
    fresh = collect_grounding_frames(environments, 40, CONFIG.seed)  # type: ignore[arg-type]
    for environment in environments:
        environment.close()
    for frames in (first, second):
        assert frames.instructions == fresh.instructions
        for name in fresh.images:
            np.testing.assert_array_equal(frames.images[name], fresh.images[name])
        for name in ("proprio", "labels", "instruction_ids"):
            np.testing.assert_array_equal(getattr(frames, name), getattr(fresh, name))


def test_what_is_damaged_is_made_again(tmp_path: Path) -> None:
    data = BaseData(tmp_path, CONFIG)
    sound = data.of("cube_pickup", 2)
    (frames,) = tmp_path.rglob("frames-*.npz")
    frames.write_bytes(frames.read_bytes()[:-200])
    (held_out,) = tmp_path.rglob("held_out-*.npz")
    held_out.write_bytes(b"")
    demonstration = sorted(tmp_path.rglob("episode-*.npz"))[0]
    demonstration.write_bytes(demonstration.read_bytes()[:-200])
    with pytest.warns(UserWarning, match="damaged"):
        repaired = data.of("cube_pickup", 2)
    np.testing.assert_array_equal(repaired.frames.labels, sound.frames.labels)
    np.testing.assert_array_equal(repaired.held_out.labels, sound.held_out.labels)
    assert len(repaired.demonstrations) == 2


def test_an_oracle_that_fails_is_given_up(tmp_path: Path) -> None:
    data = BaseData(tmp_path, CONFIG)
    (success,) = data.of("cube_pickup", 1).demonstrations
    failure = dataclasses.replace(success, success=False)

    def failures(first: int) -> Any:
        attempt = first
        while True:
            yield attempt, failure
            attempt += 1

    store: list[Episode] = []

    class Store:
        def metadata(self) -> list[dict[str, int]]:
            return []

        def __len__(self) -> int:
            return len(store)

    with pytest.raises(StageError, match=f"only 0 of {2 * MOST_ATTEMPTS + 1} episodes of 'cube_pickup'"):
        demonstrate(failures, Store(), 2)  # type: ignore[arg-type]
