"""Puts the rows and outcomes that arrive, in any order and perhaps twice, together to episodes.

What comes out has the very columns that ``pld_core.stages.recorder.EpisodeRecorder`` would have made.
The replay logger sends the records, the learner and the bag's reader assemble them: one code for all.
"""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pld_core.errors import ContractError
from pld_core.types import BASE_TICK, Episode, EpisodeSpec
from pld_ros.recording.records import EPISODE, STEP, Outcome, StepRow, outcome_of, outcome_record, row_of, step_record

__all__ = ["Assembled", "EpisodeAssembler", "EpisodeReport", "StepRow", "assemble", "interrupted"]
__all__ += ["outcome_record", "relabelled", "row_of", "step_record"]

PATIENCE_S = 10.0  # how long an outcome waits for steps that are still under way
REMEMBERED = 10_000  # finished episodes whose late repetitions are recognised
LABELS = ("success", "failure", "void")


@dataclass(frozen=True)
class EpisodeReport:
    """Where an episode stood in the controller's count, and why it is voided if it is."""

    episode_id: str
    first_sequence: int
    last_sequence: int
    weights_version: str
    missing: tuple[int, ...] = ()  # sequences of steps that never came
    reason: str = ""


class Assembled(NamedTuple):
    episode: Episode
    report: EpisodeReport


@dataclass
class _Growing:
    rows: dict[int, StepRow] = field(default_factory=dict)  # by sequence
    outcome: Outcome | None = None
    touched: float = 0.0  # when anything of it came last


class EpisodeAssembler:
    """Give it every record; it answers the episodes that became complete, in the order in which they did.

    An episode whose steps do not all come within ``patience_s`` after its outcome is voided, with the
    reason; so is one of which no outcome comes although a later one is on its way. ``overdue`` finds them.
    """

    def __init__(self, patience_s: float = PATIENCE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s, self._clock = patience_s, clock
        self._growing: dict[str, _Growing] = {}
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._sizes: StepRow | None = None  # any row: a blank one has its sizes

    @property
    def pending(self) -> list[str]:
        """Episodes of which something came, but not all."""
        return list(self._growing)

    def add(self, record: Mapping[str, Any]) -> list[Assembled]:
        """One record of the link. Raises ContractError for what is no record."""
        kind = record.get("kind")
        if kind == STEP:
            return self.add_row(row_of(record))
        if kind == EPISODE:
            return self.add_outcome(outcome_of(record))
        raise ContractError(f"A record is of kind {kind!r}; valid: {STEP!r}, {EPISODE!r}.")

    def add_row(self, row: StepRow) -> list[Assembled]:
        growing = self._touch(row.episode_id)
        if growing is None:
            return []
        growing.rows.setdefault(row.sequence, row)
        self._sizes = row
        return self._finish_if_complete(row.episode_id)

    def add_outcome(self, outcome: Outcome) -> list[Assembled]:
        growing = self._touch(outcome.episode_id)
        if growing is None:
            return []
        growing.outcome = outcome
        return self._finish_if_complete(outcome.episode_id)

    def overdue(self) -> list[Assembled]:
        """The episodes that nothing more is to be expected of, voided; ask now and then."""
        before = self._clock() - self._patience_s
        newest = max((g.touched for g in self._growing.values()), default=0.0)
        late = [
            name
            for name, growing in self._growing.items()
            if growing.touched < before and (growing.outcome is not None or newest > growing.touched)
        ]
        return [done for name in late for done in self.abandon(name)]

    def abandon(self, episode_id: str, reason: str = "its outcome never came") -> list[Assembled]:
        """Finish an episode with what there is, voided unless it is complete."""
        growing = self._growing.get(episode_id)
        if growing is None or (growing.outcome is None and not growing.rows):
            self._growing.pop(episode_id, None)
            return []
        if growing.outcome is None:
            growing.outcome = interrupted(growing.rows, reason)
        return self._finish(episode_id)

    def _touch(self, episode_id: str) -> _Growing | None:
        """The episode's place, or None if it was finished already and this is a repetition."""
        if episode_id in self._finished:
            return None
        growing = self._growing.setdefault(episode_id, _Growing())
        growing.touched = self._clock()
        return growing

    def _finish_if_complete(self, episode_id: str) -> list[Assembled]:
        growing = self._growing[episode_id]
        if growing.outcome is None or any(s not in growing.rows for s in growing.outcome.sequences):
            return []
        return self._finish(episode_id)

    def _finish(self, episode_id: str) -> list[Assembled]:
        growing = self._growing.pop(episode_id)
        self._finished[episode_id] = None
        if len(self._finished) > REMEMBERED:
            self._finished.popitem(last=False)
        assert growing.outcome is not None
        return [assemble(growing.outcome, growing.rows, self._sizes)]


def assemble(outcome: Outcome, rows: Mapping[int, StepRow], sizes: StepRow | None = None) -> Assembled:
    """The episode of an outcome and its rows (by sequence); voided if they do not belong together.

    sizes: any row of the same robot and policy, for an episode that has none itself.
    """
    missing = tuple(s for s in outcome.sequences if s not in rows)
    seen = _up_to_first_gap([rows[s] for s in sorted(rows) if s in outcome.sequences])
    if not outcome.voided and (fault := _fault(outcome, seen, missing)):
        outcome = outcome.void(fault)
    if outcome.voided:
        episode = _voided(outcome, seen, sizes or next(iter(rows.values()), None))
    else:
        episode = _columns(outcome, seen, [row.reward for row in seen[1:]], outcome.terminated or outcome.success)
        episode = relabelled(episode, outcome.label)
        if episode.voided:
            outcome = outcome.void("the operator voided it")
    report = EpisodeReport(
        outcome.episode_id, outcome.first_sequence, outcome.last_sequence, outcome.weights_version, missing,
        outcome.reason,
    )  # fmt: skip
    return Assembled(episode, report)


def relabelled(episode: Episode, label: str) -> Episode:
    """The episode after a verdict that came after its end; the same one where the verdict agrees.

    As in a running episode: a success was earned by the last action, a failure ends the task's value.
    """
    if label not in ("", *LABELS):
        raise ContractError(f"A label is {label!r}; valid: {', '.join(LABELS)}.")
    if label == "void":
        return dataclasses.replace(episode, voided=True, success=False, terminated=False, truncated=True)
    success = label == "success"
    if not label or episode.voided or success == episode.success:
        return episode
    reward = episode.reward.copy()
    reward[-1] = np.float32(success)
    return dataclasses.replace(episode, reward=reward, success=success, terminated=True, truncated=False)


def _up_to_first_gap(rows: Sequence[StepRow]) -> list[StepRow]:
    return [row for k, row in enumerate(rows) if row.tick == k and row.sequence == rows[0].sequence + k]


def _fault(outcome: Outcome, seen: Sequence[StepRow], missing: Sequence[int]) -> str:
    """Why these rows make no whole episode; empty if they do."""
    if missing:
        return f"{len(missing)} of its {len(outcome.sequences)} steps never came, the first is {missing[0]}"
    if len(seen) != len(outcome.sequences) or len(seen) != outcome.ticks + 1 or len(seen) < 2:
        return f"it has {len(seen)} steps in a row of {len(outcome.sequences)}, and {outcome.ticks} ticks"
    if not seen[-1].closing or any(row.closing for row in seen[:-1]):
        return "its closing step is missing or not the last"
    if outcome.spec.record_images:
        for row in seen:
            if lost := [camera for camera in row.cameras if camera not in row.images]:
                return f"the frame of {', '.join(lost)} at tick {row.tick} never came"
    return ""


def _voided(outcome: Outcome, seen: list[StepRow], sizes: StepRow | None) -> Episode:
    """All steps up to the fault. Where nothing valid was seen after the last action, a blank row closes it."""
    acted = min(len(seen), outcome.ticks)
    if acted == len(seen):
        seen = [*seen, _blank(seen[0] if seen else sizes)]
    seen = seen[: acted + 1]
    # What the last action earned is unknown where the blank row stands.
    return _columns(outcome, seen, [row.reward for row in seen[1:]], terminated=False)


def _blank(like: StepRow | None) -> StepRow:
    """NaN everywhere and black frames."""
    if like is None:
        nothing = np.zeros(0, np.float32)
        return StepRow("", -1, 0, True, {}, nothing, nothing, nothing, nothing, nothing, 0.0, False, BASE_TICK, False)
    proprio, state, action = (np.full_like(vector, np.nan) for vector in (like.proprio, like.state, like.action))
    images = {camera: np.zeros_like(frame) for camera, frame in like.images.items()}
    return StepRow(
        "", -1, 0, True, {}, proprio, state, action, action, action, 0.0, False, BASE_TICK, False, images=images
    )


def _columns(outcome: Outcome, rows: Sequence[StepRow], rewards: Sequence[float], terminated: bool) -> Episode:
    acted = rows[:-1]
    recorded = rows if outcome.spec.record_images else ()
    cameras = {camera: frame for row in reversed(recorded) for camera, frame in row.images.items()}
    black = {camera: np.zeros_like(frame) for camera, frame in cameras.items()}  # where a voided one lost frames
    return Episode(
        spec=outcome.spec,
        instruction=outcome.instruction,
        proprio=np.stack([row.proprio for row in rows]),
        state=np.stack([row.state for row in rows]),
        images={c: np.stack([row.images.get(c, black[c]) for row in rows]) for c in cameras},
        base_action=np.stack([row.base_action for row in rows]),
        residual=np.stack([row.residual for row in rows])[:-1],
        action=np.stack([row.action for row in rows])[:-1],
        reward=np.array(rewards, np.float32),
        source=np.array([row.source for row in acted], np.uint8),
        intervention=np.array([row.intervention for row in acted], bool),
        terminated=terminated,
        truncated=not terminated,
        success=outcome.success and not outcome.voided,
        policy_version=outcome.policy_version,
        voided=outcome.voided,
        environment_success=outcome.environment_success,
    )


def interrupted(rows: Mapping[int, StepRow], reason: str, running: Outcome | None = None) -> Outcome:
    """The outcome of an episode that nobody ended: voided, with what there is.

    running: its spec and names, as far as they were known; at least one row or this must be given.
    """
    if running is None:
        row = next(iter(rows.values()))
        running = Outcome(row.episode_id, EpisodeSpec(task="", seed=0, record_images=bool(row.images)))
    if not rows:
        return running.void(reason)
    first, last = min(rows), max(rows)
    return dataclasses.replace(
        running.void(reason), ticks=last - first + (not rows[last].closing), first_sequence=first,
        last_sequence=last, weights_version=rows[last].weights_version,
    )  # fmt: skip
