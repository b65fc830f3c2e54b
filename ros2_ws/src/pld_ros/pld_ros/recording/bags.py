"""Every episode as a rosbag2 directory: ``<run>/bags/<episode_id>/`` with an MCAP file and metadata.yaml.

While an episode runs its bag lies in ``bags/.open/`` and moves to its place when it is complete, so that
whatever has a place can be read. ``repair_bags`` ends what a killed logger left behind.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml

from pld_core.errors import ContractError, StorageError
from pld_core.storage import storage_errors, write_atomic
from pld_ros.recording.assembler import LABELS
from pld_ros.recording.bag_types import Topic, type_hash, yaml_text
from pld_ros.recording.mcap_file import Counts, McapFile
from pld_ros.recording.records import Outcome, outcome_record

# rosbag2 reads metadata up to its own version: Jazzy and all after it write and read 9 (QoS as a list of
# words), Iron 8, Humble 5; see rosbag2_storage/bag_metadata.hpp and yaml.hpp there.
METADATA_VERSION = 9
OPEN = ".open"
LABELS_FILE = "labels.jsonl"
RESERVE_BYTES = 256 * 2**10  # kept free for the end of the file when the disk runs full
_RESERVE = "reserve"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class BagWriter:
    """The bag of one episode that is running."""

    def __init__(self, folder: Path, episode_id: str, topics: Sequence[Topic]) -> None:
        """Raises StorageError if there is no room for it."""
        if not _NAME.fullmatch(episode_id):
            raise ContractError(f"The episode is called {episode_id!r}; valid are letters, digits and ._- in a name.")
        self.folder, self.topics = folder, list(topics)
        self.path = folder / OPEN / _free_name(folder, episode_id)
        self._channels = {topic.name: number for number, topic in enumerate(self.topics, 1)}
        try:
            with storage_errors(self.path):
                self.path.mkdir(parents=True)
                _reserve(self.path / _RESERVE)
            self._file = McapFile.create(self.path / f"{self.path.name}.mcap", [t.channel() for t in self.topics])
        except StorageError:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    @property
    def bytes_written(self) -> int:
        return self._file.position

    def write(self, topic: str, stamp_ns: int, data: bytes) -> None:
        """Add a serialised message. Raises StorageError when the disk is full: ``finish`` the bag then."""
        self._file.write(self._channels[topic], stamp_ns, data)

    def finish(self, outcome: Outcome) -> Path:
        """End the bag and put it in its place; voided in the bag if its last messages found no room.

        Raises StorageError if even the end does not fit; ``repair_bags`` can do it later.
        """
        try:
            self._file.flush()
        except StorageError:
            outcome = outcome.void("the disk was full")
        custom = {"outcome": json.dumps(outcome_record(outcome))}
        return _end(self._file, self.path, self.topics, custom)

    def abandon(self) -> None:
        """Leave it as it is, for ``repair_bags``."""
        self._file.close()


def repair_bags(folder: Path, in_use: Collection[str] = ()) -> list[Path]:
    """End the bags whose writer died, marked as voided; in_use: names of those that are being written.

    Each is readable up to its last complete chunk; one without any is deleted. Raises StorageError if
    there is no room; the rest is done by the next call.
    """
    repaired = []
    for path in sorted(path for path in (folder / OPEN).glob("*") if path.name not in in_use):
        file_path = path / f"{path.name}.mcap"
        try:
            file = McapFile.recover(file_path)
        except (StorageError, FileNotFoundError) as error:
            if isinstance(error.__cause__, OSError):
                raise
            shutil.rmtree(path, ignore_errors=True)
            continue
        if not file.counts.total:
            file.close()
            shutil.rmtree(path, ignore_errors=True)
            continue
        topics = [Topic(topic, kind, _first(qos)) for topic, kind, qos in file.topics()]
        custom = {"interrupted": "the replay logger ended in mid-episode"}
        repaired.append(_end(file, path, topics, custom))
    return repaired


def add_label(bag: Path, label: str, in_time: bool) -> None:
    """Note the operator's verdict beside a bag; readers honour it. in_time: the learner heard of it, too."""
    if label not in LABELS:
        raise ContractError(f"A label is {label!r}; valid: {', '.join(LABELS)}.")
    line = json.dumps({"label": label, "in_time": in_time, "stamp_ns": time.time_ns()}) + "\n"
    path = bag / LABELS_FILE
    with storage_errors(path):
        write_atomic(path, (path.read_text() if path.exists() else "") + line)


def _end(file: McapFile, path: Path, topics: Sequence[Topic], custom: dict[str, str]) -> Path:
    """Finish the file, describe it, and move its folder to its place."""
    (path / _RESERVE).unlink(missing_ok=True)
    file.finish()
    custom = {"episode_id": path.name, **custom}
    write_atomic(path / "metadata.yaml", yaml_text(_metadata(file, topics, custom)))
    place = path.parents[1] / path.name
    with storage_errors(place):
        os.replace(path, place)
    return place


def _metadata(file: McapFile, topics: Sequence[Topic], custom: dict[str, str]) -> dict[str, Any]:
    counts = file.counts
    start = {"nanoseconds_since_epoch": counts.start_ns if counts.total else 0}
    duration = {"nanoseconds": max(0, counts.end_ns - counts.start_ns) if counts.total else 0}
    return {
        "rosbag2_bagfile_information": {
            "version": METADATA_VERSION,
            "storage_identifier": "mcap",
            "duration": duration,
            "starting_time": start,
            "message_count": counts.total,
            "topics_with_message_count": [_described(n, topic, counts) for n, topic in enumerate(topics, 1)],
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [file.path.name],
            "files": [
                {"path": file.path.name, "starting_time": start, "duration": duration,
                 "message_count": counts.total}
            ],
            "custom_data": custom,
            "ros_distro": os.environ.get("ROS_DISTRO") or "kilted",
        }
    }  # fmt: skip


def _described(number: int, topic: Topic, counts: Counts) -> dict[str, Any]:
    return {
        "topic_metadata": {
            "name": topic.name,
            "type": topic.type,
            "serialization_format": "cdr",
            "offered_qos_profiles": topic.profiles,
            "type_description_hash": type_hash(topic.type),
        },
        "message_count": counts.messages.get(number, 0),
    }


def _first(qos: str) -> dict[str, Any] | None:
    profiles = yaml.safe_load(qos)
    return profiles[0] if profiles else None


def _reserve(path: Path) -> None:
    with open(path, "wb") as file:
        file.write(bytes(RESERVE_BYTES))  # a hole would take no room


def _free_name(folder: Path, episode_id: str) -> str:
    """A logger that was restarted in mid-episode goes on in a second bag."""
    names = [episode_id, *(f"{episode_id}-{k}" for k in range(2, 100))]
    return next(name for name in names if not (folder / name).exists() and not (folder / OPEN / name).exists())
