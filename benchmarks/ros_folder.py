"""Reads from a run's folder what ``pld bench ros`` counts: its bags, and both ends of the link. Changes nothing."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from ros_counts import Counts, EpisodeNotes, LinkNotes, Step, count

from pld_core.errors import ConfigError
from pld_core.link.codec import decode
from pld_core.link.spool import SegmentReader
from pld_ros.recording.bag_reader import BagReader
from pld_ros.recording.logbook import LEDGER
from pld_ros.recording.records import PROPRIO, STEP, stamp_ns

_STEP, _STATUS = "pld_msgs/msg/PolicyStep", "pld_msgs/msg/EpisodeStatus"
_SCENE, _IMAGE = "pld_msgs/msg/SimulatorState", "sensor_msgs/msg/Image"
_DONE = 4  # EpisodeStatus.DONE
_MARK = struct.Struct("<Q")


def count_run(run_dir: Path) -> Counts:
    """The numbers of a run that was stopped, or is over. Raises ConfigError where there is nothing to count."""
    bags = sorted(path.parent for path in (run_dir / "bags").glob("*/metadata.yaml"))
    if not bags:
        raise ConfigError(f"No bags in {run_dir / 'bags'}: `pld bench ros --run` needs the folder of a run over ROS.")
    with ProcessPoolExecutor() as pool:
        episodes = list(pool.map(read_bag, bags, chunksize=4))
    if not any(step.latency_ms for episode in episodes for step in episode.steps):
        raise ConfigError(f"{run_dir} ran in lockstep, where time stands still: there is no latency to count.")
    return count(episodes, read_link(run_dir))


def read_bag(bag: Path) -> EpisodeNotes:
    steps: dict[int, Step] = {}
    done: Any = None
    scenes: list[tuple[int, int]] = []
    with BagReader(bag) as reader:
        cameras = [_camera(topic) for topic, kind in reader.topics.items() if kind == _IMAGE]
        arrived: dict[str, dict[int, int]] = {camera: {} for camera in cameras}
        for topic, heard_ns, message in reader.messages((_STEP, _STATUS, _SCENE, _IMAGE)):
            kind = reader.topics[topic]
            if kind == _STEP:
                steps.setdefault(int(message.sequence), _step(message))
            elif kind == _SCENE:
                scenes.append((int(message.tick), stamp_ns(message.header.stamp)))
            elif kind == _IMAGE:
                arrived[_camera(topic)].setdefault(stamp_ns(message.header.stamp), heard_ns)
            elif message.state == _DONE:
                done = message
        episode_id = str(reader.custom["episode_id"]) if done is None else done.episode_id
    rows = [steps[number] for number in sorted(steps)]
    if done is None:
        return EpisodeNotes(episode_id, rows, ended=False, scenes=scenes, arrived_ns=arrived)
    span = int(done.first_sequence), int(done.last_sequence)
    return EpisodeNotes(episode_id, rows, True, int(done.ticks), *span, scenes, arrived)


def read_link(run_dir: Path) -> LinkNotes:
    """Compares what the learner has acknowledged with what the replay logger has given to the link."""
    spool = run_dir / "spool"
    if not (spool / "identity.json").exists():
        raise ConfigError(f"{run_dir} has no spool: its replay logger sent nothing to a learner.")
    identity = json.loads((spool / "identity.json").read_text())
    acknowledged = _number(run_dir / "link" / f"{identity['sender']}.{identity['spool']}")
    kept: list[tuple[str, int, bool]] = []
    found, last = 0, acknowledged
    for number, payload in _records(spool):
        if number <= acknowledged:
            continue
        found, last = found + 1, max(last, number)
        record: Any = decode(payload)
        if record["kind"] == STEP:
            kept.append((record["episode_id"], int(record["sequence"]), bool(record["closing"])))
    sent = max(last, _number(spool / "reached"))
    return LinkNotes(acknowledged, sent, kept, sent - acknowledged - found, frozenset(_finished(run_dir / LEDGER)))


def _step(message: Any) -> Step:
    stamps = {name: stamp_ns(stamp) for name, stamp in zip(message.sources, message.stamps, strict=True)}
    used = {source: stamp for source, stamp in stamps.items() if source != PROPRIO}
    newest = max(stamps.values())
    if not hasattr(message, "late_ms"):
        raise ConfigError("The run was recorded by an older version, which did not note how late its ticks began.")
    timing = float(message.latency_ms), float(message.late_ms), int(message.skipped)
    return Step(int(message.sequence), bool(message.closing), newest, used, *timing)


def _camera(topic: str) -> str:
    """``/pld/camera/<name>/image`` -> ``<name>``."""
    return topic.rsplit("/", 2)[1]


def _records(spool: Path) -> Iterator[tuple[int, bytes]]:
    for path in sorted(spool.glob("segment-*")):
        reader = SegmentReader(path, int(path.name.removeprefix("segment-")))
        try:
            while (payload := reader.read()) is not None:
                yield reader.next - 1, payload
        finally:
            reader.close()


def _number(path: Path) -> int:
    """Of a file as pld_core.link.marks writes it; 0 where there is none."""
    content = path.read_bytes() if path.exists() else b""
    return _MARK.unpack(content)[0] if len(content) == _MARK.size else 0


def _finished(ledger: Path) -> Iterator[str]:
    for line in ledger.read_text().splitlines() if ledger.exists() else ():
        yield json.loads(line)["episode_id"]
