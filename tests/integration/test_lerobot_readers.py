"""LeRobot's own readers open what is exported: v3.0, v2.1, and what a killed writer left behind."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from lerobot_killed import EPISODES, SPOKEN
from test_lerobot import CODEC_ERROR, VERSIONS, assert_back, filmed, write

from pld_core.cli import main as cli
from pld_core.data.episode_store import EpisodeStore
from pld_core.data.lerobot import DatasetSpec, LeRobotReader, LeRobotWriter, layout
from pld_core.types import BASE_TICK, Episode
from pld_sim.point_reach import point_reach

ROOT = Path(__file__).resolve().parents[2]


Delivered = Mapping[str, np.ndarray]
Read = Callable[..., list[Delivered]]


@pytest.fixture(scope="session")
def read() -> Read:
    """``read(version, *folders)``: what LeRobot's reader delivers of each; see lerobot_child.py."""
    home = ROOT / ".venv-lerobot"
    if not (home / ".installed").exists():
        pytest.skip("LeRobot's own readers are not installed: run `make lerobot` (1.9 GB) before.")

    def read(version: str, *folders: Path) -> list[Delivered]:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(home / "ffmpeg"), "HF_HOME": str(folders[0].parent / "hf")}
        environment |= {"PYTHONPATH": str(home / "v2.1")} if version == layout.V21 else {}
        command = [home / "bin" / "python", Path(__file__).with_name("lerobot_child.py"), version, *folders]
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [np.load(f"{folder}.npz") for folder in folders]

    return read


def assert_delivered(found: Delivered, episodes: list[Episode]) -> None:
    """Counts, times, values, tasks and pictures are those of the episodes."""
    frames = sum(map(len, episodes))
    assert found["counts"].tolist() == [len(episodes), frames, 20]
    columns = {
        "observation.state": [e.proprio[:-1] for e in episodes],
        "action": [e.action for e in episodes],
        "next.reward": [e.reward for e in episodes],
        "next.success": [np.arange(1, len(e) + 1) == len(e) * e.success for e in episodes],
        "next.done": [np.arange(1, len(e) + 1) == len(e) for e in episodes],
        "timestamp": [(np.arange(len(e)) / 20).astype(np.float32) for e in episodes],
        "frame_index": [np.arange(len(e)) for e in episodes],
        "episode_index": [np.full(len(e), k) for k, e in enumerate(episodes)],
        "index": [np.arange(frames)],
        "task": [np.full(len(e), e.instruction) for e in episodes],
        "pld.source": [e.source for e in episodes],
        "pld.residual": [e.residual for e in episodes],
        "pld.base_action": [e.base_action[:-1] for e in episodes],
    }
    for key, parts in columns.items():
        np.testing.assert_array_equal(found[f"frame:{key}"], np.concatenate(parts), err_msg=key)
    for camera in episodes[0].images:
        pictures = np.concatenate([e.images[camera][:-1] for e in episodes])
        seen = 255 * found[f"frame:observation.images.{camera}"].transpose(0, 2, 3, 1)
        assert np.abs(seen - pictures).mean(axis=(1, 2, 3)).max() < CODEC_ERROR


def assert_statistics(found: Delivered, episodes: list[Episode]) -> None:
    actions = np.concatenate([e.action for e in episodes])
    for name, of in {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}.items():
        np.testing.assert_allclose(found[f"stats:action:{name}"], of(actions, axis=0), atol=1e-6)
    for camera in episodes[0].images:
        mean = np.concatenate([e.images[camera][:-1] for e in episodes]).mean(axis=(0, 1, 2)) / 255
        np.testing.assert_allclose(found[f"stats:observation.images.{camera}:mean"].ravel(), mean, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_lerobot_reads_what_was_written(tmp_path, read, version):
    episodes = [filmed(k, ticks=3 + 2 * k) for k in range(4)]
    episodes[2] = dataclasses.replace(episodes[2], instruction="open the drawer", success=False)
    odd = [filmed(k, size=(33, 47)) for k in range(2)]
    folders = [write(tmp_path / "even", episodes, version), write(tmp_path / "odd", odd, version)]
    for found, given in zip(read(version, *folders), (episodes, odd), strict=True):
        assert_delivered(found, given)
        assert_statistics(found, given)


@pytest.mark.slow
def test_lerobot_reads_av1_and_full_shards(tmp_path, read, monkeypatch):
    from pld_core.data.lerobot import v30

    monkeypatch.setattr(v30, "SHARD_MB", 1e-3)
    episodes = [filmed(k) for k in range(4)]
    folder = write(tmp_path / "set", episodes, codec="av1")
    assert (folder / "videos/observation.images.wrist/chunk-000/file-001.mp4").exists()
    assert_delivered(read(layout.V30, folder)[0], episodes)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_a_kill_at_any_step_leaves_all_finished_episodes(tmp_path, read, version):
    program = Path(__file__).with_name("lerobot_killed.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, str(program), str(tmp_path), version], check=True, env=environment)
    *killed, whole = sorted(tmp_path.glob("step-*"))
    assert len(killed) >= 7  # two videos, frames, tasks, episode, statistics, info.json
    episodes = [*EPISODES[:2], dataclasses.replace(EPISODES[2], instruction=SPOKEN)]
    if version == layout.V21:  # whose readers want frames and episodes to agree: see EpisodeFiles
        for folder in killed:
            LeRobotWriter(folder, DatasetSpec(), version)
    *left, finished = read(version, *killed, whole)
    assert_delivered(finished, episodes)
    for found in left:
        assert_delivered(found, EPISODES[:2])
    for folder in killed:  # and it can be continued
        assert_back(write(folder, episodes[2:], version), episodes)
        assert not list(folder.rglob("*.tmp"))
    for found in read(version, *killed):
        assert_delivered(found, episodes)
        assert_statistics(found, episodes)


@pytest.mark.slow
def test_a_run_is_exported_read_and_imported(tmp_path, read, monkeypatch, capsys):
    module = types.ModuleType("toy_camera")
    module.make = lambda lanes: point_reach(lanes, camera=True)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_camera", module)
    command = "harvest --preset custom --task toy_camera:make --policy pld_sim.point_reach:biased_base --name toy"
    assert cli.main([*command.split(), "--learn.encoder", "resnet10", "--harvest.successes", "5"]) == 0
    store = EpisodeStore("runs/toy/harvest")
    store.append(dataclasses.replace(next(iter(store)), voided=True), attempt=99)
    capsys.readouterr()

    out = tmp_path / "set"
    assert cli.main(["export", "runs/toy", "--data", "harvest", "--out", str(out)]) == 0
    sound = [episode for episode in store if not episode.voided]
    assert f"{len(sound)} episodes, {sum(map(len, sound))} frames, 1 voided left out" in capsys.readouterr().out
    assert_delivered(read(layout.V30, out)[0], sound)
    assert LeRobotReader(out).info["features"]["observation.state"]["names"] == ["x", "y", "goal_x", "goal_y"]
    assert (sound[0].source == BASE_TICK).all()

    assert cli.main(["import", str(out), "--out", str(tmp_path / "back")]) == 0
    back = EpisodeStore(tmp_path / "back")
    assert back.metadata() == [m for e, m in store.items() if not e.voided]
    for given, found in zip(sound, back, strict=True):
        assert given.spec == found.spec
        for name in ("proprio", "state", "base_action", "residual", "action", "reward", "source", "intervention"):
            np.testing.assert_array_equal(getattr(given, name), getattr(found, name))
