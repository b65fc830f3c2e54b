"""The bags that are being written: one for each running episode, and what a full disk does to them."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pld_core.errors import ContractError, StorageError
from pld_core.storage import storage_errors
from pld_ros.recording.bag_types import Topic, type_hash
from pld_ros.recording.bags import OPEN, BagWriter, add_label, repair_bags
from pld_ros.recording.records import Outcome

PRE_ROLL = 40  # messages of each topic from before an episode's beginning: its first observation is among them
PROBE_BYTES = 2**20


class BagShelf:
    """Never raises for lack of room: ``fault`` says why a bag ended early, until there is room again."""

    def __init__(self, folder: Path, topics: Sequence[Topic], own: Sequence[str]) -> None:
        """own: the topics whose messages belong to one episode alone; all others go into every open bag."""
        self.folder, self.fault = folder, ""
        self._topics = list(topics)
        self._pre_roll = {topic.name: deque(maxlen=PRE_ROLL) for topic in topics if topic.name not in own}
        self._open: dict[str, BagWriter] = {}
        self._broken: set[str] = set()  # episodes whose bag ends where the disk was full
        self._finished_bytes = 0
        # A sync may take a disk a second; frames that come meanwhile must not be lost.
        self._closer = ThreadPoolExecutor(1, thread_name_prefix="bags")
        self._closing: dict[str, Future[None]] = {}
        for topic in self._topics:  # the first bag would take a second to begin without
            topic.channel()
            type_hash(topic.type)
        self._repair()

    @property
    def bytes_written(self) -> int:
        return self._finished_bytes + sum(writer.bytes_written for writer in self._open.values())

    def begin(self, episode_id: str) -> None:
        if episode_id in self._open:
            return
        try:
            self._open[episode_id] = BagWriter(self.folder, episode_id, self._topics)
        except (StorageError, ContractError) as error:
            self._fail(episode_id, error)
            return
        heard = [(stamp, topic, data) for topic, kept in self._pre_roll.items() for stamp, data in kept]
        for stamp, topic, data in sorted(heard, key=lambda entry: entry[0]):
            self.write(episode_id, topic, stamp, data)

    def hear(self, topic: str, data: bytes) -> None:
        """A message that belongs to whatever runs."""
        stamp = time.time_ns()
        self._pre_roll[topic].append((stamp, data))
        for episode_id in self._open:
            self.write(episode_id, topic, stamp, data)

    def write(self, episode_id: str, topic: str, stamp_ns: int, data: bytes) -> None:
        """A message of one episode."""
        if episode_id not in self._open or episode_id in self._broken:
            return
        try:
            self._open[episode_id].write(topic, stamp_ns, data)
        except StorageError as error:
            self._fail(episode_id, error)

    def finish(self, episode_id: str, outcome: Outcome) -> None:
        writer = self._open.pop(episode_id, None)
        if writer is None:
            return
        if episode_id in self._broken:
            outcome = outcome.void("the disk was full; the bag ends before the episode did")
        self._broken.discard(episode_id)
        self._closing = {name: done for name, done in self._closing.items() if not done.done()}
        self._closing[episode_id] = self._closer.submit(self._end, writer, outcome)

    def _end(self, writer: BagWriter, outcome: Outcome) -> None:
        try:
            writer.finish(outcome)
        except StorageError as error:
            writer.abandon()
            self.fault = str(error)
        self._finished_bytes += writer.bytes_written

    def label(self, episode_id: str, label: str, in_time: bool) -> bool:
        """Note a verdict beside a finished bag; False if there is none. Raises StorageError."""
        if episode_id in self._closing:
            self._closing[episode_id].result()
        bag = self.folder / episode_id
        if not (bag / "metadata.yaml").exists():
            return False
        add_label(bag, label, in_time)
        return True

    def recover(self) -> None:
        """See whether there is room again after a fault; finishes what did not fit then."""
        if not self.fault or any(not done.done() for done in self._closing.values()):
            return
        probe = self.folder / OPEN / "probe"
        try:
            with storage_errors(probe), open(probe, "wb") as file:
                file.write(bytes(PROBE_BYTES))
        except (StorageError, OSError):
            return
        finally:
            with contextlib.suppress(OSError):
                os.unlink(probe)
        self.fault = ""
        self._repair()

    def close(self) -> None:
        """Wait until the finished bags are in their places."""
        self._closer.shutdown(wait=True)

    def _repair(self) -> None:
        try:
            repair_bags(self.folder, [writer.path.name for writer in self._open.values()])
        except StorageError as error:
            self.fault = str(error)

    def _fail(self, episode_id: str, error: Exception) -> None:
        self.fault = str(error)
        self._broken.add(episode_id)
