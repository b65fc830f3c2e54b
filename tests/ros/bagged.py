"""Writes episodes into bags as the replay logger does, without ROS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from recorded import outcome_of_episode, rows_of, stamp

from pld_core.types import Episode
from pld_ros.recording.bag_types import Topic, typestore
from pld_ros.recording.bags import BagWriter
from pld_ros.recording.records import NO_T_BASE, Outcome, StepRow

STEP, STATUS, IMAGE, STATE = (
    "/pld/controller/step",
    "/pld/controller/episode",
    "/pld/camera/top/image",
    "/pld/robot/state",
)
QOS = {
    "history": "keep_last", "depth": 30, "reliability": "reliable", "durability": "volatile",
    "deadline": {"sec": 0, "nsec": 0}, "lifespan": {"sec": 0, "nsec": 0}, "liveliness": "automatic",
    "liveliness_lease_duration": {"sec": 0, "nsec": 0}, "avoid_ros_namespace_conventions": False,
}  # fmt: skip
TOPICS = [
    Topic(STEP, "pld_msgs/msg/PolicyStep", QOS),
    Topic(STATUS, "pld_msgs/msg/EpisodeStatus", QOS),
    Topic(IMAGE, "sensor_msgs/msg/Image", QOS),
    Topic(STATE, "pld_msgs/msg/RobotState", QOS),
]


def write_episode_bag(folder: Path, episode: Episode, episode_id: str, first: int = 1, **changes) -> Path:
    writer = BagWriter(folder, episode_id, TOPICS)
    fill(writer, episode, episode_id, first)
    return writer.finish(outcome_of_episode(episode, episode_id, first, **changes))


def fill(writer: BagWriter, episode: Episode, episode_id: str, first: int = 1) -> None:
    rows = rows_of(episode, episode_id, first)
    writer.write(STATUS, stamp(first), status_bytes(outcome_of_episode(episode, episode_id, first), running=True))
    for row in rows:
        at = stamp(row.sequence)
        for frame in row.images.values():
            writer.write(IMAGE, at, image_bytes(frame, at))
        writer.write(STEP, at + 1, step_bytes(row))


def message(kind: str, **fields):
    return typestore().types[kind](**fields)


def time_of(nanoseconds: int):
    return message("builtin_interfaces/msg/Time", sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def header(nanoseconds: int, frame_id: str = ""):
    return message("std_msgs/msg/Header", stamp=time_of(nanoseconds), frame_id=frame_id)


def step_bytes(row: StepRow) -> bytes:
    kind = "pld_msgs/msg/PolicyStep"
    vectors = {name: getattr(row, name) for name in ("proprio", "state", "base_action", "residual", "action")}
    return serialised(
        message(
            kind, header=header(stamp(row.sequence)), episode_id=row.episode_id, sequence=row.sequence, tick=row.tick,
            closing=row.closing, sources=list(row.stamps), stamps=[time_of(s) for s in row.stamps.values()], **vectors,
            reward=row.reward, success=row.success, source=row.source, intervention=row.intervention,
            weights_version=row.weights_version, latency_ms=1.0, late_ms=0.0, skipped=0,
        ),
        kind,
    )  # fmt: skip


def status_bytes(outcome: Outcome, running: bool) -> bytes:
    kind, spec = "pld_msgs/msg/EpisodeStatus", outcome.spec
    order = message(
        "pld_msgs/msg/EpisodeSpec", task=spec.task, seed=spec.seed, mode=spec.mode,
        t_base=NO_T_BASE if spec.t_base is None else spec.t_base, xi=spec.xi, explore=spec.explore,
        noise_ticks=spec.noise_ticks, record_images=spec.record_images,
    )  # fmt: skip
    names = ("episode_id", "instruction", "policy_version", "weights_version")
    ended = {} if running else {"ticks": outcome.ticks, "last_sequence": outcome.last_sequence}
    flags = ("terminated", "truncated", "success", "voided", "environment_success")
    return serialised(
        message(
            kind, header=header(0), state=2 if running else 4, order="0a1b", spec=order,
            first_sequence=outcome.first_sequence,
            reason=outcome.reason, **{name: getattr(outcome, name) for name in names},
            **{"ticks": 0, "last_sequence": 0, **ended},
            **{name: not running and getattr(outcome, name) for name in flags},
        ),
        kind,
    )  # fmt: skip


def image_bytes(frame: np.ndarray, nanoseconds: int) -> bytes:
    kind = "sensor_msgs/msg/Image"
    return serialised(
        message(
            kind, header=header(nanoseconds, "top"), height=frame.shape[0], width=frame.shape[1], encoding="rgb8",
            is_bigendian=0, step=3 * frame.shape[1], data=np.ascontiguousarray(frame).reshape(-1),
        ),
        kind,
    )  # fmt: skip


def serialised(value, kind: str) -> bytes:
    return bytes(typestore().serialize_cdr(value, kind))
