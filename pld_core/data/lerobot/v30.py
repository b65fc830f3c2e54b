"""v3.0 on disk: many episodes share a parquet file and an mp4 file, up to a size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pld_core.data.lerobot import layout
from pld_core.data.lerobot.features import video_keys
from pld_core.data.lerobot.provenance import SCHEMA
from pld_core.data.lerobot.statistics import Statistics, merge
from pld_core.data.lerobot.videos import DamagedDatasetError, write_video
from pld_core.storage import storage_errors, write_json

SHARD_MB = 16  # a shard is written anew with every episode that it takes: large ones would cost more than they save
_TASK = "__index_level_0__"  # what pandas calls an index without a name, and LeRobot's readers expect


class Shards:
    """Appends to the last shard of each kind, or begins another; ``Files`` of LeRobotWriter."""

    def __init__(self, folder: Path, info: dict[str, Any], codec: str) -> None:
        self._folder, self._fps, self._codec = folder, info["fps"], codec
        self._limit = SHARD_MB * 2**20
        self._tasks: list[str] = []
        self._statistics: Statistics | None = None
        self._rows, self._records = _Shard(folder, layout.DATA_30), _Shard(folder, layout.EPISODES_30)
        self._videos = {key: _Video() for key in video_keys(info["features"])}
        if info["total_episodes"]:
            self._continue(info)

    def tasks(self) -> list[str]:
        return list(self._tasks)

    def add_task(self, tasks: list[str]) -> None:
        columns = {"task_index": pa.array(range(len(tasks)), pa.int64()), _TASK: pa.array(tasks, pa.string())}
        table = pa.table(columns).replace_schema_metadata({"pandas": json.dumps(_PANDAS)})
        layout.write_table(self._folder / layout.TASKS_30, table)
        self._tasks = tasks

    def add(
        self, record: dict[str, Any], rows: pa.Table, images: Mapping[str, np.ndarray], statistics: Statistics
    ) -> dict[str, Any]:
        first = rows["index"][0].as_py()
        record = record | {"dataset_from_index": first, "dataset_to_index": first + len(rows)}
        for key, frames in images.items():
            record |= self._add_video(key, frames)
        record |= _place("data", self._rows.append(rows, self._limit))
        record |= _place("meta/episodes", self._records.number_for(self._limit))
        self._records.append(_record_table(record, statistics), self._limit)
        merged = merge(self._statistics, statistics)
        write_json(self._folder / layout.STATS, merged)
        self._statistics = merged
        return {"data_files_size_in_mb": SHARD_MB, "video_files_size_in_mb": SHARD_MB}

    def _add_video(self, key: str, frames: np.ndarray) -> dict[str, Any]:
        """The closing picture goes in as well: the next episode begins behind it."""
        video = self._videos[key]
        if video.bytes > self._limit:
            video.number, video.frames = video.number + 1, 0
        path = self._folder / layout.shard(layout.VIDEO_30, video.number, video_key=key)
        write_video(path, frames, self._fps, self._codec, after=path if video.frames else None)
        begin, video.frames, video.bytes = video.frames, video.frames + len(frames), path.stat().st_size
        times = {"from_timestamp": begin / self._fps, "to_timestamp": video.frames / self._fps}
        return _place(f"videos/{key}", video.number) | {f"videos/{key}/{name}": t for name, t in times.items()}

    def _continue(self, info: dict[str, Any]) -> None:
        """Videos begin another shard: the last one may hold pictures of an episode that was never finished."""
        last = self._records.resume("episode_index", info["total_episodes"])
        self._rows.resume("index", info["total_frames"])
        self._tasks = layout.read_table(self._folder / layout.TASKS_30)[_TASK].to_pylist()
        for statistics in self._statistics_of(info["total_episodes"]):
            self._statistics = merge(self._statistics, statistics)
        for key, video in self._videos.items():
            found = (last[f"videos/{key}/chunk_index"], last[f"videos/{key}/file_index"])
            video.number = layout.number_of(*found) + 1

    def _statistics_of(self, episodes: int) -> Iterator[Statistics]:
        """Of each episode that counts. stats.json may hold one more, of a writer that was killed."""
        paths = sorted(self._folder.glob("meta/episodes/*/*.parquet"))
        records = (record for path in paths for record in layout.read_table(path).to_pylist())
        for record in islice(records, episodes):
            found: Statistics = {}
            for column, value in record.items():
                if column.startswith("stats/"):
                    _, key, name = column.split("/")
                    found.setdefault(key, {})[name] = value
            yield found


class _Video:
    def __init__(self) -> None:
        self.number, self.frames, self.bytes = 0, 0, 0


class _Shard:
    """The last parquet file of a kind, kept in memory so that it can be written anew."""

    def __init__(self, folder: Path, template: str) -> None:
        self._folder, self._template = folder, template
        self._number, self._table = 0, None

    def number_for(self, limit: int) -> int:
        """The number of the file that the next rows go into."""
        return self._number + (self._table is not None and self._table.nbytes > limit)

    def append(self, rows: pa.Table, limit: int) -> int:
        number = self.number_for(limit)
        old = self._table if number == self._number else None
        table = rows if old is None else pa.concat_tables([old, rows]).combine_chunks()
        layout.write_table(self._path(number), table)
        self._number, self._table = number, table
        return number

    def resume(self, key: str, counted: int) -> dict[str, Any]:
        """Drop what lies behind the row whose ``key`` is ``counted - 1``; answers that row."""
        for path in sorted(self._folder.glob(f"{Path(self._template).parts[0]}/**/file-*.parquet"), reverse=True):
            table = layout.read_table(path)
            kept = table.slice(0, max(0, counted - table[key][0].as_py()))
            if len(kept):
                chunk, file = (int(name.partition("-")[2]) for name in (path.parent.name, path.stem))
                self._number, self._table = layout.number_of(chunk, file), kept
                return kept.slice(len(kept) - 1).to_pylist()[0]
            with storage_errors(path):  # an episode that was never finished
                path.unlink()
        raise DamagedDatasetError(f"{self._folder / layout.INFO} counts episodes that are gone; export again.")

    def _path(self, number: int) -> Path:
        return self._folder / layout.shard(self._template, number)


def _place(prefix: str, number: int) -> dict[str, int]:
    chunk, file = divmod(number, layout.FILES_PER_CHUNK)
    return {f"{prefix}/chunk_index": chunk, f"{prefix}/file_index": file}


def _record_table(record: dict[str, Any], statistics: Statistics) -> pa.Table:
    """One row. Types of our own columns are given: a missing t_base must not make its column one of nothing."""
    found = {key: pa.array([value], SCHEMA.get(key)) for key, value in record.items()}
    for key, values in statistics.items():
        found |= {f"stats/{key}/{name}": pa.array([value]) for name, value in values.items()}
    return pa.table(found)


def _pandas(name: str | None, field: str, kind: str, numpy_kind: str) -> dict[str, Any]:
    return {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}


_PANDAS = {
    "index_columns": [_TASK],
    "column_indexes": [],
    "columns": [_pandas("task_index", "task_index", "int64", "int64"), _pandas(None, _TASK, "unicode", "object")],
}
