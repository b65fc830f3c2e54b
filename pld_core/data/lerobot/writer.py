"""Appends episodes to a dataset that can be opened at any moment, also after the writer was killed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pld_core.data.lerobot import layout
from pld_core.data.lerobot.features import (
    CAMERA_PREFIX,
    DatasetSpec,
    features_of,
    rows_of,
    same_features,
    table_of,
)
from pld_core.data.lerobot.provenance import describe
from pld_core.data.lerobot.statistics import Statistics, statistics_of
from pld_core.data.lerobot.v21 import EpisodeFiles
from pld_core.data.lerobot.v30 import Shards
from pld_core.errors import ConfigError, ContractError
from pld_core.storage import remove_leftovers, storage_errors, write_json
from pld_core.types import Episode


class Files(Protocol):
    """How a version keeps its episodes. What it adds lies behind what info.json counts, until info.json is replaced."""

    def tasks(self) -> list[str]:
        """Texts, each at its index."""
        ...

    def add_task(self, tasks: list[str]) -> None:
        """Write them all; the last one is new."""
        ...

    def add(
        self, record: dict[str, Any], rows: pa.Table, images: Mapping[str, np.ndarray], statistics: Statistics
    ) -> dict[str, Any]:
        """Store an episode; answers what info.json says beyond its counts. record: index, length, tasks, provenance."""
        ...


class LeRobotWriter:
    """One writer at a time. Files only ever grow at their end and are replaced whole, info.json last.

    A kill between two files leaves rows that info.json does not count; readers never ask for them and the next
    writer drops them. An existing dataset is continued: same version, features and rate, or ContractError.
    """

    def __init__(self, folder: str | Path, spec: DatasetSpec, version: str = layout.V30) -> None:
        if version not in (layout.V30, layout.V21):
            raise ConfigError(f"LeRobot version {version!r} is not known; valid: {layout.V30}, {layout.V21}.")
        self.folder, self.spec, self.version = Path(folder), spec, version
        self._info: dict[str, Any] | None = None
        self._files: Files | None = None
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
        if (self.folder / layout.INFO).exists():
            self._continue()

    def __len__(self) -> int:
        return self._info["total_episodes"] if self._info else 0

    @property
    def frames(self) -> int:
        return self._info["total_frames"] if self._info else 0

    def append(self, episode: Episode, **metadata: Any) -> None:
        """Store one episode durably; ``metadata`` is handed back when it is imported.

        Raises ContractError for one that is voided, empty or unlike the episodes before it.
        """
        if episode.voided or len(episode) == 0:
            why = "was spoiled by a fault (voided)" if episode.voided else "has no ticks"
            raise ContractError(f"The episode with seed {episode.spec.seed} {why}; leave it out of a dataset.")
        features = features_of(episode, self.spec)
        info = self._info or layout.new_info(self.version, self.spec, features)
        same_features(features, info["features"])
        files = self._files or self._open(info)
        self._files = None  # where this one fails half-way (a full disk), the next begins with what is on disk
        self._info = self._add(info, files, episode, metadata)
        self._files = files

    def _add(self, info: dict[str, Any], files: Files, episode: Episode, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Answers info.json with the episode counted."""
        number, first = info["total_episodes"], info["total_frames"]
        text = episode.instruction or episode.spec.task
        tasks = files.tasks()
        if text not in tasks:
            tasks.append(text)
            files.add_task(tasks)
        columns = rows_of(episode, self.spec, number, first, tasks.index(text))
        images = {CAMERA_PREFIX + name: frames for name, frames in sorted(episode.images.items())}
        seen = {key: frames[:-1] for key, frames in images.items()}
        record = {"episode_index": number, "tasks": [text], "length": len(episode)} | describe(episode, metadata)
        more = files.add(record, table_of(columns, info["features"]), images, statistics_of(columns, seen))
        counts = {"total_episodes": number + 1, "total_frames": first + len(episode), "total_tasks": len(tasks)}
        changed = info | more | counts | {"splits": {"train": f"0:{number + 1}"}}
        write_json(self.folder / layout.INFO, changed)
        return changed

    def _continue(self) -> None:
        info = layout.read_info(self.folder)
        given = {"version": self.version, "rate": self.spec.fps}
        present = {"version": info["codebase_version"], "rate": info["fps"]}
        for name, value in given.items():
            if value != present[name]:
                raise ContractError(
                    f"{self.folder} has {name} {present[name]}, this would be {value}. Give another --out."
                )
        self._info, self._files = info, self._open(info)

    def _open(self, info: dict[str, Any]) -> Files:
        kind = Shards if self.version == layout.V30 else EpisodeFiles
        try:
            return kind(self.folder, info, self.spec.codec)
        except KeyError as error:
            raise ContractError(
                f"{self.folder} lacks {error}, so PLD did not write it. Only its own datasets are continued; give "
                "another --out."
            ) from error
