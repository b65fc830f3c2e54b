"""The rows and outcomes of episodes on their way to the learner and into bags. No rclpy here.

A record is what goes over the link: a dictionary of plain values and arrays with the key ``kind``,
``"step"`` or ``"episode"``. Messages are read by their fields alone, so that rclpy's and those of a
bag's reader serve alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pld_core.errors import ContractError
from pld_core.types import EpisodeSpec

STEP, EPISODE = "step", "episode"
PROPRIO = "proprio"  # the source of a step that is no camera
NO_T_BASE = -1
_VECTORS = ("proprio", "state", "base_action", "residual", "action")
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class StepRow:
    """One tick: what was seen and decided, and what the previous action earned.

    sequence: counts the controller's steps over all episodes; tick: within the episode; closing: the row
    after the last action, not executed. stamps: capture time in nanoseconds per source. proprio ``[P]``,
    state ``[S]``, base_action, residual and action ``[A]``, float32. reward, success: of the previous
    action. images: ``{camera: uint8 [h, w, 3]}``, empty where the learner wants none.
    """

    episode_id: str
    sequence: int
    tick: int
    closing: bool
    stamps: Mapping[str, int]
    proprio: np.ndarray
    state: np.ndarray
    base_action: np.ndarray
    residual: np.ndarray
    action: np.ndarray
    reward: float
    success: bool
    source: int
    intervention: bool
    weights_version: str = ""
    images: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def cameras(self) -> list[str]:
        return [source for source in self.stamps if source != PROPRIO]


@dataclass(frozen=True)
class Outcome:
    """How an episode ended: the controller's last word, and the operator's.

    ticks: actions executed; first_sequence, last_sequence: of its steps (last < first: none);
    environment_success: what a simulator says; label: the operator's verdict if it came after the end
    ("success", "failure", "void" or empty).
    """

    episode_id: str
    spec: EpisodeSpec
    instruction: str = ""
    policy_version: str = ""
    weights_version: str = ""
    ticks: int = 0
    first_sequence: int = 0
    last_sequence: int = -1
    terminated: bool = False
    truncated: bool = False
    success: bool = False
    voided: bool = False
    reason: str = ""
    environment_success: bool = False
    label: str = ""

    @property
    def sequences(self) -> range:
        """The steps that must be there."""
        return range(self.first_sequence, self.last_sequence + 1)

    def void(self, reason: str) -> Outcome:
        return dataclasses.replace(self, voided=True, success=False, terminated=False, truncated=True, reason=reason)


def step_record(row: StepRow) -> dict[str, Any]:
    return {"kind": STEP, **_shallow(row), "stamps": dict(row.stamps), "images": dict(row.images)}


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    return {"kind": EPISODE, **_shallow(outcome), "spec": dataclasses.asdict(outcome.spec)}


def row_of(record: Mapping[str, Any]) -> StepRow:
    """The row of a record with ``kind`` "step". Raises ContractError if it is none."""
    values = _values(record, STEP, StepRow)
    for name in _VECTORS:
        values[name] = np.asarray(values[name], np.float32)
    values["images"] = {camera: np.asarray(frame) for camera, frame in values.get("images", {}).items()}
    return StepRow(**values)


def outcome_of(record: Mapping[str, Any]) -> Outcome:
    """The outcome of a record with ``kind`` "episode". Raises ContractError if it is none."""
    values = _values(record, EPISODE, Outcome)
    try:
        return Outcome(**{**values, "spec": EpisodeSpec(**values["spec"])})
    except TypeError as error:
        raise ContractError(f"An episode's record has a spec that is none ({error}): {values['spec']!r}.") from error


def row_of_message(message: Any, images: Mapping[str, np.ndarray] | None = None) -> StepRow:
    """The row of a pld_msgs/PolicyStep, with the frames that belong to it."""
    return StepRow(
        episode_id=message.episode_id,
        sequence=int(message.sequence),
        tick=int(message.tick),
        closing=bool(message.closing),
        stamps={name: stamp_ns(stamp) for name, stamp in zip(message.sources, message.stamps, strict=True)},
        **{name: np.array(getattr(message, name), np.float32) for name in _VECTORS},
        reward=float(message.reward),
        success=bool(message.success),
        source=int(message.source),
        intervention=bool(message.intervention),
        weights_version=message.weights_version,
        images=dict(images or {}),
    )


def outcome_of_message(message: Any) -> Outcome:
    """The outcome that a pld_msgs/EpisodeStatus holds (only the spec of one whose episode is running)."""
    return Outcome(
        message.episode_id, spec_of_message(message.spec), message.instruction, message.policy_version,
        message.weights_version, int(message.ticks), int(message.first_sequence), int(message.last_sequence),
        bool(message.terminated), bool(message.truncated), bool(message.success), bool(message.voided),
        message.reason, bool(message.environment_success),
    )  # fmt: skip


def spec_of_message(message: Any) -> EpisodeSpec:
    """The order that a pld_msgs/EpisodeSpec holds."""
    return EpisodeSpec(
        message.task, int(message.seed), message.mode,
        None if message.t_base == NO_T_BASE else int(message.t_base), float(message.xi), bool(message.explore),
        int(message.noise_ticks), bool(message.record_images),
    )  # fmt: skip


def stamp_ns(stamp: Any) -> int:
    """Nanoseconds of a builtin_interfaces/Time."""
    return int(stamp.sec) * _NANOSECONDS + int(stamp.nanosec)


def _shallow(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def _values(record: Mapping[str, Any], kind: str, cls: type[Any]) -> dict[str, Any]:
    """The fields of ``cls`` in a record; unknown ones (of a newer sender) are left out."""
    if record.get("kind") != kind:
        raise ContractError(f"A record of kind {record.get('kind')!r} was given where one of kind {kind!r} belongs.")
    fields = dataclasses.fields(cls)
    needed = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in needed if name not in record]:
        raise ContractError(f"A record of kind {kind!r} lacks {', '.join(missing)}; it has {', '.join(record)}.")
    return {f.name: record[f.name] for f in fields if f.name in record}
