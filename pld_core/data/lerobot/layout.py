"""Where things lie in a dataset, and what every version's info.json says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pld_core.data.lerobot.features import DatasetSpec, Feature
from pld_core.data.lerobot.videos import DamagedDatasetError
from pld_core.errors import ConfigError
from pld_core.storage import write_atomic

V30, V21 = "v3.0", "v2.1"
INFO, STATS = "meta/info.json", "meta/stats.json"
FILES_PER_CHUNK = 1000

_SHARD = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_30, EPISODES_30, TASKS_30 = f"data/{_SHARD}.parquet", f"meta/episodes/{_SHARD}.parquet", "meta/tasks.parquet"
VIDEO_30 = f"videos/{{video_key}}/{_SHARD}.mp4"

DATA_21 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_21 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
EPISODES_21, STATS_21, TASKS_21 = "meta/episodes.jsonl", "meta/episodes_stats.jsonl", "meta/tasks.jsonl"


def new_info(version: str, spec: DatasetSpec, features: Mapping[str, Feature]) -> dict[str, Any]:
    """info.json of a dataset without episodes."""
    return {
        "codebase_version": version,
        "robot_type": spec.robot_type or None,
        "total_episodes": 0,
        "total_frames": 0,
        "total_tasks": 0,
        "chunks_size": FILES_PER_CHUNK,
        "fps": spec.fps,
        "splits": {},
        "data_path": DATA_30 if version == V30 else DATA_21,
        "video_path": VIDEO_30 if version == V30 else VIDEO_21,
        "features": dict(features),
    }


def shard(template: str, number: int, **keys: str) -> str:
    """The path of the ``number``-th file of its kind in v3.0."""
    chunk, file = divmod(number, FILES_PER_CHUNK)
    return template.format(chunk_index=chunk, file_index=file, **keys)


def number_of(chunk: int, file: int) -> int:
    return chunk * FILES_PER_CHUNK + file


def read_info(folder: Path) -> dict[str, Any]:
    """info.json. Raises ConfigError where there is no dataset, or one of a version that nobody here knows."""
    path = folder / INFO
    if not path.is_file():
        raise ConfigError(f"{folder} holds no LeRobot dataset: it has no {INFO}. Give the folder that has meta/ in it.")
    info = read_json(path)
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version not in (V30, V21):
        raise ConfigError(f"{path} says version {version!r}; {V30} and {V21} can be read. Convert it with lerobot.")
    for key in ("fps", "features", "total_episodes", "total_frames", "data_path"):
        if key not in info:
            raise DamagedDatasetError(f"{path} lacks {key!r}. Copy the dataset again, or export again.")
    return info


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def write_json_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))


def read_table(path: Path) -> pa.Table:
    try:
        with open(path, "rb") as file:  # not by name: Arrow would look for partitions in it
            return pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def write_table(path: Path, table: pa.Table) -> None:
    write_atomic(path, cast("Callable[[BinaryIO], Any]", lambda file: pq.write_table(table, file)))


def _unreadable(path: Path, error: Exception) -> DamagedDatasetError:
    reason = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({' '.join(str(error).split())})"
    return DamagedDatasetError(f"{path} is {reason}. Copy it from where the dataset was made, or export again.")
