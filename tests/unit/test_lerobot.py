"""LeRobot datasets: what goes out comes back, what is broken is named, and a writer that stopped is continued."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_episode_store import assert_same, make_episode

from pld_core.data.lerobot import DatasetSpec, LeRobotReader, LeRobotWriter, features, layout, provenance, v30
from pld_core.data.lerobot.statistics import merge, statistics_of
from pld_core.data.lerobot.videos import DamagedDatasetError
from pld_core.errors import ConfigError, ContractError, StorageError
from pld_core.types import ActionSpec, Episode, EpisodeSpec

VERSIONS = (layout.V30, layout.V21)
CODEC_ERROR = 4.0  # mean difference of a colour, of 255, that H.264 may make of a smooth picture


def filmed(seed: int, ticks: int = 5, size: tuple[int, int] = (32, 48)) -> Episode:
    """An episode whose pictures a codec can keep; every frame has a brightness of its own."""
    height, width = size
    ramp = np.linspace(0, 80, height)[:, None] + np.linspace(0, 80, width)
    brightness = 10 * (seed % 3) + 60 * np.arange(ticks + 1) / ticks
    frames = (ramp + brightness[:, None, None])[..., None] + np.array([0, 10, 20])
    images = {"wrist": frames.astype(np.uint8), "front": (255 - frames).astype(np.uint8)}
    return dataclasses.replace(make_episode(seed, ticks), images=images)


def write(folder: Path, episodes: list[Episode], version: str = layout.V30, **settings: object) -> Path:
    writer = LeRobotWriter(folder, DatasetSpec(**settings), version)  # type: ignore[arg-type]
    for k, episode in enumerate(episodes):
        writer.append(episode, attempt=k)
    return folder


def assert_back(folder: Path, episodes: list[Episode]) -> None:
    """Equal to the last bit but for the pictures, which are close and at their own ticks."""
    found = list(LeRobotReader(folder))
    assert len(found) == len(episodes)
    for given, (back, _) in zip(episodes, found, strict=True):
        assert given.environment_success == back.environment_success
        assert_same(dataclasses.replace(given, images={}), dataclasses.replace(back, images={}))
        assert given.images.keys() == back.images.keys()
        for camera, frames in given.images.items():
            assert back.images[camera].shape == frames.shape
            error = np.abs(frames.astype(float) - back.images[camera]).mean(axis=(1, 2, 3))
            assert error.max() < CODEC_ERROR, f"{camera}: {error}"


def files(folder: Path, pattern: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.glob(pattern))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_goes_out_comes_back(tmp_path, version):
    episodes = [filmed(k, ticks=4 + k, size=(32, 48)) for k in range(3)]
    episodes[1] = dataclasses.replace(
        episodes[1],
        spec=dataclasses.replace(episodes[1].spec, t_base=None, xi=0.1 + 0.2, noise_ticks=4, mode="evaluate"),
        instruction="",
        environment_success=True,
    )
    folder = write(tmp_path / "set", episodes, version)
    assert_back(folder, episodes)
    assert [metadata for _, metadata in LeRobotReader(folder)] == [{"attempt": k} for k in range(3)]


def test_an_episode_says_where_it_lies(tmp_path):
    """For LeRobot's own tools: frames from here to there, pictures from then to then, the closing one included."""
    folder = write(tmp_path / "set", [filmed(0, ticks=5), filmed(1, ticks=7)])
    rows = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    spans = [(row["dataset_from_index"], row["dataset_to_index"], row["length"]) for row in rows]
    assert spans == [(0, 5, 5), (5, 12, 7)]
    key = "videos/observation.images.wrist"
    assert [(row[f"{key}/from_timestamp"], row[f"{key}/to_timestamp"]) for row in rows] == [(0.0, 0.3), (0.3, 0.7)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [(33, 48), (32, 47)])
def test_odd_pictures_keep_their_size(tmp_path, version, size):
    episodes = [filmed(k, size=size) for k in range(2)]
    assert_back(write(tmp_path / "set", episodes, version), episodes)


@pytest.mark.parametrize("version", VERSIONS)
def test_episodes_without_pictures_and_vectors_of_one_number(tmp_path, version):
    columns = ("base_action", "residual", "action", "proprio", "state")
    narrow = [
        dataclasses.replace(e, images={}, **{name: getattr(e, name)[:, :1] for name in columns})
        for e in (make_episode(0), make_episode(1))
    ]
    folder = write(tmp_path / "set", narrow, version)
    assert_back(folder, narrow)
    assert not (folder / "videos").exists()


def test_av1(tmp_path):
    episodes = [filmed(k) for k in range(2)]
    assert_back(write(tmp_path / "set", episodes, codec="av1"), episodes)


def test_metric_units_are_for_others_and_leave_the_import_alone(tmp_path):
    episode = filmed(0)
    wide = {name: np.tile(getattr(episode, name), (1, 4))[:, :7] for name in ("base_action", "residual", "action")}
    episode = dataclasses.replace(episode, **wide)
    actions = ActionSpec(translation_m=0.05, rotation_rad=0.5)
    folder = write(tmp_path / "set", [episode], units="metric", actions=actions)
    frames = pq.read_table(folder / "data/chunk-000/file-000.parquet").to_pydict()
    scale = np.array([0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0], np.float32)
    np.testing.assert_array_equal(np.float32(frames["action"]), episode.action * scale)
    assert_back(folder, [episode])


def test_full_shards_are_followed_by_others(tmp_path, monkeypatch):
    monkeypatch.setattr(v30, "SHARD_MB", 1e-3)
    episodes = [filmed(k) for k in range(5)]
    folder = write(tmp_path / "set", episodes)
    for pattern in ("data/*/*", "meta/episodes/*/*", "videos/*wrist/*/*"):
        assert len(files(folder, pattern)) > 1
    assert_back(folder, episodes)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shard_mb", [16, 1e-3])
def test_a_writer_continues_behind_an_episode_that_was_never_finished(tmp_path, monkeypatch, version, shard_mb):
    monkeypatch.setattr(v30, "SHARD_MB", shard_mb)
    episodes = [filmed(k, ticks=3 + k) for k in range(4)]
    folder = write(tmp_path / "set", episodes[:2], version)
    counted = (folder / layout.INFO).read_bytes()
    write(folder, [filmed(9, ticks=11)], version)
    (folder / layout.INFO).write_bytes(counted)  # as if that one had been killed before its last file
    write(folder, episodes[2:], version)
    assert_back(folder, episodes)
    info = json.loads((folder / layout.INFO).read_text())
    assert info["total_frames"] == sum(map(len, episodes))
    if version == layout.V30:
        tables = [pq.read_table(folder / name) for name in files(folder, "data/*/*")]
        assert pa.concat_tables(tables)["index"].to_pylist() == list(range(info["total_frames"]))


def test_tasks_are_numbered_as_they_come(tmp_path):
    texts = ["open", "close", "open", ""]
    episodes = [dataclasses.replace(make_episode(k), instruction=text, images={}) for k, text in enumerate(texts)]
    folder = write(tmp_path / "set", episodes)
    tasks = pq.read_table(folder / "meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0, 1, 2], "__index_level_0__": ["open", "close", "peg_insertion"]}
    frames = pq.read_table(folder / "data/chunk-000/file-000.parquet")
    assert frames["task_index"].to_pylist()[::4] == [0, 1, 0, 2]


def test_statistics_are_those_of_all_frames():
    rng = np.random.default_rng(0)
    parts = [rng.normal(k, 1 + k, (20 + k, 3)) for k in range(4)]
    pictures = [rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8) // (k + 1) for k in range(4)]
    merged = None
    for values, frames in zip(parts, pictures, strict=True):
        merged = merge(merged, statistics_of({"x": values}, {"c": frames}))
    assert merged is not None
    whole, pixels = np.concatenate(parts), np.concatenate(pictures) / 255
    for name, of in {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}.items():
        np.testing.assert_allclose(merged["x"][name], of(whole, axis=0), rtol=1e-9)
        np.testing.assert_allclose(np.ravel(merged["c"][name]), of(pixels, axis=(0, 1, 2)), rtol=1e-9)
    assert merged["x"]["count"] == [len(whole)]
    assert np.shape(merged["c"]["mean"]) == (3, 1, 1)
    one = statistics_of({"x": whole}, {"c": pictures[0]})
    np.testing.assert_allclose(one["x"]["q90"], np.quantile(whole, 0.9, axis=0))
    expected = np.quantile(pictures[0], 0.9, axis=(0, 1, 2), method="inverted_cdf") / 255
    np.testing.assert_allclose(np.ravel(one["c"]["q90"]), expected)


def test_every_field_of_an_episode_is_kept():
    described = {name for name in provenance.SCHEMA if name != "pld/metadata"}
    fields = {f.name for kind in (EpisodeSpec, Episode) for f in dataclasses.fields(kind)} - {"spec", "images"}
    closing = {"pld/closing.proprio", "pld/closing.state", "pld/closing.base_action"}
    assert fields == {name.removeprefix("pld/") for name in described - closing} | set(features.COLUMN_OF)


STEPS = [(layout.V30, step) for step in range(1, 9)] + [(layout.V21, step) for step in range(1, 7)]


@pytest.mark.parametrize(("version", "step"), STEPS)
def test_a_full_disk_costs_only_the_episode_that_did_not_fit(tmp_path, monkeypatch, version, step):
    """The ``step``-th file of the second episode does not come to its name; the same writer then goes on."""
    episodes = [filmed(k, ticks=3 + k) for k in range(3)]
    writer = LeRobotWriter(tmp_path / "set", DatasetSpec(), version)
    writer.append(episodes[0], attempt=0)
    replace, calls = os.replace, iter(range(1, 100))

    def full(*names: str) -> None:
        if next(calls) == step:
            raise OSError(errno.ENOSPC, "no space")
        replace(*names)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StorageError, match="the disk is full"):
            writer.append(episodes[1], attempt=1)
    for k in (1, 2):
        writer.append(episodes[k], attempt=k)
    assert_back(tmp_path / "set", episodes)
    assert not list((tmp_path / "set").rglob("*.tmp"))


# -- what cannot be written ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"voided": True}, "voided"),
        ({"images": {}}, "observation.images.front"),
        ({"images": filmed(0, size=(16, 16)).images}, r"\[16, 16, 3\]"),
        ({"proprio": np.zeros((6, 9), np.float32)}, "observation.state"),
        ({"action": np.zeros((5, 2))}, "action is float64"),
        ({"reward": np.zeros(3, np.float32)}, "reward is float32"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused_and_nothing_changes(tmp_path, change, words):
    folder = write(tmp_path / "set", [filmed(0)])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ContractError, match=words):
        write(folder, [dataclasses.replace(filmed(1), **change)])
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dataset_of_others_is_not_continued(tmp_path):
    folder = write(tmp_path / "set", [filmed(0)])
    path = folder / "meta/tasks.parquet"
    table = pq.read_table(path).rename_columns(["task_index", "task"])
    pq.write_table(table, path)
    with pytest.raises(ContractError, match="Only its own datasets are continued"):
        LeRobotWriter(folder, DatasetSpec())


def test_another_rate_or_version_does_not_continue_a_dataset(tmp_path):
    folder = write(tmp_path / "set", [filmed(0)])
    with pytest.raises(ContractError, match="rate 20, this would be 10"):
        LeRobotWriter(folder, DatasetSpec(ActionSpec(rate_hz=10.0)))
    with pytest.raises(ContractError, match=r"version v3.0, this would be v2.1"):
        LeRobotWriter(folder, DatasetSpec(), layout.V21)
    with pytest.raises(ConfigError, match=r"whole number of frames.*12.5"):
        DatasetSpec(ActionSpec(rate_hz=12.5))


# -- what cannot be read -------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [cut, Path.unlink])
@pytest.mark.parametrize(
    ("version", "name"),
    [
        (layout.V30, "data/chunk-000/file-000.parquet"),
        (layout.V30, "meta/episodes/chunk-000/file-000.parquet"),
        (layout.V30, "videos/observation.images.wrist/chunk-000/file-000.mp4"),
        (layout.V21, "data/chunk-000/episode_000001.parquet"),
        (layout.V21, "videos/chunk-000/observation.images.front/episode_000001.mp4"),
        (layout.V21, "meta/episodes.jsonl"),
    ],
)
def test_a_damaged_or_missing_file_is_named(tmp_path, version, name, damage):
    folder = write(tmp_path / "set", [filmed(0), filmed(1)], version)
    damage(folder / name)
    lost = damage is Path.unlink and "meta/episodes/" in name  # then nobody knows that there was one
    with pytest.raises(DamagedDatasetError, match="tells of 0 episodes" if lost else name.rpartition("/")[2]):
        list(LeRobotReader(folder))


def test_a_video_without_its_last_picture_is_named(tmp_path):
    folder = write(tmp_path / "set", [filmed(0, ticks=5)])
    longer = write(tmp_path / "longer", [filmed(0, ticks=9)])
    name = "videos/observation.images.wrist/chunk-000/file-000.mp4"
    shutil.copy(folder / name, longer / name)
    with pytest.raises(DamagedDatasetError, match=r"wrist.*of frames 0 to 9 it gave 6"):
        list(LeRobotReader(longer))


@pytest.mark.parametrize("key", ["pld.residual", "observation.state"])
def test_a_missing_key_is_named(tmp_path, key):
    folder = write(tmp_path / "set", [filmed(0)])
    path = folder / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).drop_columns([key]), path)
    with pytest.raises(ContractError, match=rf"file-000.parquet lacks {key}"):
        list(LeRobotReader(folder))


def test_missing_provenance_is_named(tmp_path):
    folder = write(tmp_path / "set", [filmed(0)])
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["pld/xi"]), path)
    with pytest.raises(ContractError, match=r"meta/episodes/chunk-000/file-000.parquet .* lacks pld/xi"):
        list(LeRobotReader(folder))
    pq.write_table(table.drop_columns(["data/file_index"]), path)
    with pytest.raises(ContractError, match="lacks the column 'data/file_index'"):
        LeRobotReader(folder)


def test_no_dataset_another_version_and_a_broken_info_are_told_apart(tmp_path):
    with pytest.raises(ConfigError, match="holds no LeRobot dataset"):
        LeRobotReader(tmp_path)
    folder = write(tmp_path / "set", [filmed(0)])
    info = json.loads((folder / layout.INFO).read_text())
    (folder / layout.INFO).write_text(json.dumps(info | {"codebase_version": "v1.6"}))
    with pytest.raises(ConfigError, match=r"version 'v1.6'; v3.0 and v2.1"):
        LeRobotReader(folder)
    (folder / layout.INFO).write_text(json.dumps({k: v for k, v in info.items() if k != "fps"}))
    with pytest.raises(DamagedDatasetError, match=r"info.json lacks 'fps'"):
        LeRobotReader(folder)
    (folder / layout.INFO).write_text("{")
    with pytest.raises(DamagedDatasetError, match=r"info.json is damaged"):
        LeRobotReader(folder)
