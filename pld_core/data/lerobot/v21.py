"""v2.1 on disk, which openpi's pinned lerobot reads: a parquet file and an mp4 file per episode, JSON lines beside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pld_core.data.lerobot import layout
from pld_core.data.lerobot.features import video_keys
from pld_core.data.lerobot.statistics import Statistics
from pld_core.data.lerobot.videos import write_video
from pld_core.storage import storage_errors


class EpisodeFiles:
    """``Files`` of LeRobotWriter.

    The readers of v2.1 want as many frames as episodes.jsonl counts, and the two are different files: a kill just
    between them leaves a dataset that can be read once a writer has opened it again.
    """

    def __init__(self, folder: Path, info: dict[str, Any], codec: str) -> None:
        self._folder, self._fps, self._codec = folder, info["fps"], codec
        self._cameras = len(video_keys(info["features"]))
        counted = info["total_episodes"]
        self._records, self._statistics, self._tasks = (
            layout.read_json_lines(folder / name) if counted else []
            for name in (layout.EPISODES_21, layout.STATS_21, layout.TASKS_21)
        )
        self._drop(counted)

    def tasks(self) -> list[str]:
        return [line["task"] for line in self._tasks]

    def add_task(self, tasks: list[str]) -> None:
        lines = [{"task_index": k, "task": task} for k, task in enumerate(tasks)]
        layout.write_json_lines(self._folder / layout.TASKS_21, lines)
        self._tasks = lines

    def add(
        self, record: dict[str, Any], rows: pa.Table, images: Mapping[str, np.ndarray], statistics: Statistics
    ) -> dict[str, Any]:
        number = record["episode_index"]
        place = {"episode_chunk": number // layout.FILES_PER_CHUNK, "episode_index": number}
        for key, frames in images.items():
            write_video(self._folder / layout.VIDEO_21.format(video_key=key, **place), frames, self._fps, self._codec)
        records = [*self._records, record]
        kept = [*self._statistics, {"episode_index": number, "stats": statistics}]
        layout.write_json_lines(self._folder / layout.STATS_21, kept)
        layout.write_table(self._folder / layout.DATA_21.format(**place), rows)
        layout.write_json_lines(self._folder / layout.EPISODES_21, records)
        self._records, self._statistics = records, kept
        return {"total_videos": (number + 1) * self._cameras, "total_chunks": place["episode_chunk"] + 1}

    def _drop(self, counted: int) -> None:
        """What there is of an episode that was never finished."""
        for name, lines in ((layout.EPISODES_21, self._records), (layout.STATS_21, self._statistics)):
            if len(lines) > counted:
                del lines[counted:]
                layout.write_json_lines(self._folder / name, lines)
        for path in self._folder.glob("data/*/episode_*.parquet"):
            if int(path.stem.removeprefix("episode_")) >= counted:
                with storage_errors(path):
                    path.unlink()
