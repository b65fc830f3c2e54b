"""Reads the bags of episodes, with no ROS installation, and makes the episodes of them again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rosbags.interfaces import Qos, QosDurability
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.errors import ReaderError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from pld_core.errors import ConfigError, ContractError, StorageError
from pld_core.types import Episode
from pld_ros.recording.assembler import Assembled, assemble, interrupted
from pld_ros.recording.bags import LABELS_FILE, OPEN
from pld_ros.recording.records import (
    PROPRIO,
    Outcome,
    StepRow,
    outcome_of,
    outcome_of_message,
    row_of_message,
    stamp_ns,
)

_STEP, _STATUS, _IMAGE = "pld_msgs/msg/PolicyStep", "pld_msgs/msg/EpisodeStatus", "sensor_msgs/msg/Image"


class BagReader:
    """One bag; a context manager. Messages are plain objects with the fields of their types."""

    def __init__(self, path: Path) -> None:
        if not (path / "metadata.yaml").exists():
            raise ConfigError(
                f"{path} is no bag: it has no metadata.yaml. Give a folder under <run>/bags. Those in bags/{OPEN} are "
                "being written, or are repaired when the replay logger starts."
            )
        self.path = path
        self._reader = Reader(path)
        self._store = get_typestore(Stores.EMPTY)

    def __enter__(self) -> BagReader:
        try:
            self._reader.open()
            self._store = _types_in(self._reader)
        except (ReaderError, OSError, ValueError, KeyError, yaml.YAMLError) as error:
            raise StorageError(f"The bag {self.path} cannot be read: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    @property
    def custom(self) -> dict[str, str]:
        """What the logger noted in metadata.yaml."""
        metadata = yaml.safe_load((self.path / "metadata.yaml").read_text())
        return metadata["rosbag2_bagfile_information"].get("custom_data") or {}

    @property
    def topics(self) -> dict[str, str]:
        """Type by topic."""
        return {connection.topic: connection.msgtype for connection in self._reader.connections}

    def depth(self, topic: str) -> int:
        """Of the queue that its publisher offered."""
        return max((qos.depth for qos in self._offered(topic)), default=1) or 1

    def latched(self, topic: str) -> bool:
        return any(qos.durability == QosDurability.TRANSIENT_LOCAL for qos in self._offered(topic))

    def _offered(self, topic: str) -> list[Qos]:
        ext: Any = next(c.ext for c in self._reader.connections if c.topic == topic)
        return ext.offered_qos_profiles

    def raw(self) -> Iterator[tuple[str, str, int, bytes]]:
        """Topic, type, stamp and serialised message, in the order in which they were received."""
        for connection, stamp, data in self._reader.messages():
            yield connection.topic, connection.msgtype, stamp, data

    def messages(self, types: Iterable[str] = ()) -> Iterator[tuple[str, int, Any]]:
        """Topic, stamp in nanoseconds and message; of some types only, or of all."""
        wanted = set(types)
        connections = [c for c in self._reader.connections if not wanted or c.msgtype in wanted]
        for connection, stamp, data in self._reader.messages(connections) if connections else ():
            yield connection.topic, stamp, self._store.deserialize_cdr(data, connection.msgtype)

    def assembled(self, as_learned: bool = False, frames_too: bool = False) -> Assembled:
        """The episode of this bag. as_learned: without the verdicts that came too late for the learner;
        frames_too: with its frames also where the learner wanted none."""
        rows: dict[int, StepRow] = {}
        frames: dict[tuple[str, int], np.ndarray] = {}
        status: Outcome | None = None
        for topic, _, message in self.messages((_STEP, _STATUS, _IMAGE)):
            kind = self.topics[topic]
            if kind == _IMAGE:
                shape = (message.height, message.width, 3)
                frames[_camera(topic), stamp_ns(message.header.stamp)] = message.data.reshape(shape)
            elif kind == _STATUS:
                status = outcome_of_message(message)
            else:
                rows.setdefault(int(message.sequence), row_of_message(message))
        outcome = self._outcome(rows, status)
        rows = {s: _with_frames(row, frames) for s, row in rows.items() if row.episode_id == outcome.episode_id}
        if frames_too:
            outcome = dataclasses.replace(outcome, spec=dataclasses.replace(outcome.spec, record_images=True))
        return assemble(_labelled(outcome, self._label(as_learned)), rows)

    def _outcome(self, rows: dict[int, StepRow], status: Outcome | None) -> Outcome:
        custom = self.custom
        if "outcome" in custom:
            return outcome_of(json.loads(custom["outcome"]))
        if not rows and status is None:
            raise ContractError(
                f"The bag {self.path} holds no steps and no status of an episode: PLD did not write it."
            )
        reason = custom.get("interrupted", "the bag does not say how it ended")
        return interrupted(rows, reason, status)

    def _label(self, as_learned: bool) -> str:
        path = self.path / LABELS_FILE
        label = ""
        for line in path.read_text().splitlines() if path.exists() else ():
            noted = json.loads(line)
            if noted["in_time"] or not as_learned:
                label = noted["label"]
        return label


def read_episode(bag: Path, as_learned: bool = False) -> Episode:
    """The episode of a bag, see ``BagReader.assembled``."""
    with BagReader(bag) as reader:
        return reader.assembled(as_learned).episode


def recorded(run_or_bag: Path, as_learned: bool = False, frames_too: bool = False) -> list[tuple[Path, Assembled]]:
    """The bags and their episodes, each episode once: the whole one where a logger was restarted."""
    found: dict[str, tuple[Path, Assembled]] = {}
    for path in bag_paths(run_or_bag):
        with BagReader(path) as reader:
            assembled = reader.assembled(as_learned, frames_too)
        known = found.get(assembled.report.episode_id)
        if known is None or known[1].episode.voided:
            found[assembled.report.episode_id] = path, assembled
    return list(found.values())


def bag_paths(run_or_bag: Path) -> list[Path]:
    """The bags of a run's folder in the order in which they began, or the one bag given. Raises ConfigError."""
    if (run_or_bag / "metadata.yaml").exists():
        return [run_or_bag]
    folder = run_or_bag / "bags" if (run_or_bag / "bags").is_dir() else run_or_bag
    found = [path.parent for path in folder.glob("*/metadata.yaml")]
    if not found:
        raise ConfigError(
            f"No bags in {run_or_bag}. Give a run's folder that has bags/, or one bag (a folder with metadata.yaml); "
            "the replay logger writes them with its parameter bags:=true."
        )
    return sorted(found, key=lambda path: (_began_ns(path), path.name))


def _began_ns(bag: Path) -> int:
    metadata = yaml.safe_load((bag / "metadata.yaml").read_text())
    return int(metadata["rosbag2_bagfile_information"]["starting_time"]["nanoseconds_since_epoch"])


def _types_in(reader: Reader) -> Typestore:
    """The types as they were when the bag was written."""
    types: dict[str, Any] = {}
    for connection in reader.connections:
        types.update(get_types_from_msg(connection.msgdef.data, connection.msgtype))
    store = get_typestore(Stores.EMPTY)
    store.register(types)
    return store


def _camera(topic: str) -> str:
    """``/pld/camera/<name>/image`` -> ``<name>``."""
    return topic.rsplit("/", 2)[1]


def _with_frames(row: StepRow, frames: dict[tuple[str, int], np.ndarray]) -> StepRow:
    found = {c: frames[c, s] for c, s in row.stamps.items() if c != PROPRIO and (c, s) in frames}
    return dataclasses.replace(row, images=found)


def _labelled(outcome: Outcome, label: str) -> Outcome:
    return dataclasses.replace(outcome, label=label) if label else outcome
