"""Reads what LeRobotWriter wrote, v3.0 and v2.1, back into episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pld_core.data.lerobot import layout
from pld_core.data.lerobot.features import CAMERA_PREFIX, video_keys
from pld_core.data.lerobot.provenance import identity, restore
from pld_core.data.lerobot.videos import DamagedDatasetError, read_video
from pld_core.errors import ContractError
from pld_core.types import Episode


@dataclass(frozen=True)
class _Entry:
    """Where one episode lies. videos: ``{key: (file, its first frame there)}``."""

    record: Mapping[str, Any]
    source: Path  # the file that the record is from
    data: Path
    videos: Mapping[str, tuple[Path, int]]


class LeRobotReader:
    """The episodes of a dataset in their order, each with the metadata of the store that it came from.

    Proprioception, actions, rewards, provenance and orders are what was exported to the last bit; pictures within
    what the codec keeps. Raises ConfigError where there is no dataset or one of an unknown version, ContractError for
    a key that is missing, DamagedDatasetError for a file that is missing or cut short.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.info = layout.read_info(self.folder)
        entries = self._entries_30 if self.info["codebase_version"] == layout.V30 else self._entries_21
        self._entries = entries()
        if len(self._entries) < len(self):
            raise DamagedDatasetError(
                f"{self.folder} tells of {len(self._entries)} episodes, {layout.INFO} counts {len(self)}. Copy the "
                "dataset again, or export again."
            )

    def __len__(self) -> int:
        return self.info["total_episodes"]

    def __iter__(self) -> Iterator[tuple[Episode, dict[str, Any]]]:
        for entry in self._entries[: len(self)]:
            columns = self._columns(entry)
            images = {
                key.removeprefix(CAMERA_PREFIX): self._pictures(entry, key) for key in video_keys(self.info["features"])
            }
            yield restore(entry.record, columns, images, f"{entry.source} or {entry.data}")

    def identities(self) -> set[str]:
        """Of the episodes that are in it; see ``provenance.identity``."""
        return {identity(entry.record) for entry in self._entries[: len(self)]}

    def _columns(self, entry: _Entry) -> dict[str, np.ndarray]:
        number, ticks = entry.record["episode_index"], entry.record["length"]
        table = _table(entry.data, entry.data.stat().st_mtime_ns if entry.data.exists() else 0)
        if "episode_index" not in table.column_names:
            raise ContractError(f"{entry.data} lacks the column 'episode_index'.")
        rows = table.slice(int(np.searchsorted(table["episode_index"].to_numpy(), number)), ticks)
        if len(rows) < ticks or rows["episode_index"][-1].as_py() != number:
            raise DamagedDatasetError(f"{entry.data} lacks frames of episode {number}; export again.")
        return {name: _values(rows[name]) for name in rows.column_names}

    def _pictures(self, entry: _Entry, key: str) -> np.ndarray:
        path, first = entry.videos[key]
        height, width, _ = self.info["features"][key]["shape"]
        return read_video(path, first, entry.record["length"] + 1, self.info["fps"], (height, width))

    def _entries_30(self) -> list[_Entry]:
        found = []
        for path in sorted(self.folder.glob("meta/episodes/*/*.parquet")):
            table = layout.read_table(path)
            table = table.select([name for name in table.column_names if not name.startswith("stats/")])
            found += [self._entry_30(path, record) for record in table.to_pylist()]
        return found

    def _entry_30(self, path: Path, record: dict[str, Any]) -> _Entry:
        def place(prefix: str, template: str, **keys: str) -> Path:
            names = {name: record[f"{prefix}/{name}"] for name in ("chunk_index", "file_index")}
            return self.folder / template.format(**names, **keys)

        try:
            videos = {
                key: (
                    place(f"videos/{key}", self.info["video_path"], video_key=key),
                    round(record[f"videos/{key}/from_timestamp"] * self.info["fps"]),
                )
                for key in video_keys(self.info["features"])
            }
            return _Entry(record, path, place("data", self.info["data_path"]), videos)
        except KeyError as error:
            raise ContractError(f"{path} lacks the column {error}.") from error

    def _entries_21(self) -> list[_Entry]:
        path, found = self.folder / layout.EPISODES_21, []
        for number, record in enumerate(layout.read_json_lines(path)):
            place = {"episode_chunk": number // self.info["chunks_size"], "episode_index": number}
            videos = {
                key: (self.folder / self.info["video_path"].format(video_key=key, **place), 0)
                for key in video_keys(self.info["features"])
            }
            found.append(_Entry(record, path, self.folder / self.info["data_path"].format(**place), videos))
        return found


@lru_cache(maxsize=1)
def _table(path: Path, _changed: int) -> pa.Table:
    """The shard that many episodes in a row are taken from."""
    return layout.read_table(path)


def _values(column: pa.ChunkedArray) -> np.ndarray:
    """``[T]``, or ``[T, n]`` of a list column."""
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks)
    if pa.types.is_fixed_size_list(whole.type):
        return whole.flatten().to_numpy(zero_copy_only=False).reshape(len(whole), whole.type.list_size)
    return whole.to_numpy(zero_copy_only=False)
