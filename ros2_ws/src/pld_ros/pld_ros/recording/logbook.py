"""Which episode is how far: takes what is heard, sends rows and outcomes, and closes the bags. No rclpy here.

An episode's outcome goes out when all its steps have (or will never come), and after the operator's
time for a verdict. What an earlier logger finished is never sent twice: ``logged.jsonl`` names it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pld_core.errors import StorageError
from pld_core.storage import storage_errors
from pld_ros.recording.assembler import interrupted
from pld_ros.recording.bag_shelf import BagShelf
from pld_ros.recording.joiner import FrameJoiner
from pld_ros.recording.records import Outcome, StepRow, outcome_record, step_record
from pld_ros.recording.served_clock import ServedClock

SETTLE_S = 3.0  # after its outcome, how long an episode's last steps and frames (joiner.SILENT_S) may take
ORDER_S = 0.5  # how long the first steps of an episode wait for its order
LEDGER = "logged.jsonl"


@dataclass
class _Entry:
    """An episode that is not over for the logger."""

    episode_id: str
    began: float
    running: Outcome | None = None  # its order, once that is known
    rows: dict[int, StepRow] = field(default_factory=dict)  # all that came, without frames
    unsent: list[StepRow] = field(default_factory=list)  # joined, and waiting for the order to be known
    joined: int = 0
    lost_frames: int = 0
    outcome: Outcome | None = None
    ended: float = 0.0
    settled: bool = False  # the bag is closed; only a verdict may still come


class Logbook:
    """send: takes records for the learner; shelf: None where no bags are wanted."""

    def __init__(
        self,
        run_dir: Path,
        cameras: Sequence[str],
        send: Callable[[dict[str, Any]], None],
        shelf: BagShelf | None = None,
        label_window_s: float = 0.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        clock = clock or ServedClock()
        self.joiner = FrameJoiner(cameras, clock=clock)
        self.steps = self.steps_missed = self.episodes = self.voided = 0
        self._send, self._shelf, self._clock = send, shelf, clock
        self._label_window_s = label_window_s
        self._ledger = run_dir / LEDGER
        self._finished = _read_ledger(self._ledger)
        self._entries: dict[str, _Entry] = {}
        self._last = ""

    @property
    def running(self) -> list[str]:
        """Episodes that have begun and not ended."""
        return [name for name, entry in self._entries.items() if entry.outcome is None]

    def frame(self, camera: str, stamp_ns: int, image: np.ndarray) -> None:
        self.joiner.frame(camera, stamp_ns, image)
        self.poll()

    def step(self, row: StepRow, write: Callable[[str], None] = lambda episode_id: None) -> None:
        """A step without frames; ``write`` puts it into its episode's bag unless it came before."""
        entry = self._entry(row.episode_id)
        if entry is None or entry.settled or row.sequence in entry.rows:
            return
        self.steps += 1
        entry.rows[row.sequence] = row
        write(row.episode_id)
        self.joiner.step(row)
        self.poll()

    def status(self, outcome: Outcome, done: bool, write: Callable[[str], None] = lambda episode_id: None) -> None:
        """The controller's word on an episode: that it runs as ordered, or how it ended."""
        entry = self._entry(outcome.episode_id)
        if entry is None or entry.settled:
            return
        write(outcome.episode_id)
        entry.running = entry.running or outcome
        if done and entry.outcome is None:
            entry.outcome, entry.ended = outcome, self._clock()
        self.poll()

    def poll(self) -> None:
        """Send what is complete; call it whenever something came, and now and then."""
        for row in self.joiner.joined():
            self._joined(row)
        if len(self._entries) > 1:
            self._supersede()
        for entry in list(self._entries.values()):
            self._send_rows(entry)
            if entry.outcome is not None:
                self._close(entry)

    def void_running(self, reason: str) -> None:
        """Nobody will say how the running episodes ended."""
        for name in self.running:
            self._interrupt(self._entries[name], reason)
        self.poll()

    def label(self, episode_id: str, label: str) -> tuple[bool, str]:
        """The operator's verdict on an episode that has ended. Raises StorageError."""
        name = episode_id or self._last
        entry = self._entries.get(name)
        if not name:
            return False, "no episode has ended yet"
        if entry is not None and entry.outcome is None:
            return False, f"episode {name} is running; its verdict belongs to the controller"
        if entry is not None and entry.outcome is not None and not entry.outcome.voided:
            if self._shelf is not None and entry.settled:
                self._shelf.label(name, label, in_time=True)
            entry.outcome = dataclasses.replace(entry.outcome, label=label)
            self.poll()
            return True, f"episode {name} counts as {label}"
        if self._shelf is None or not self._shelf.label(name, label, in_time=False):
            return False, f"episode {name} is not known here, or it has no bag"
        return True, f"episode {name} is labelled {label} in its bag only; the learner has it as it ended"

    def close(self) -> None:
        """Send the outcomes that are known; an episode that runs is left to the logger's successor."""
        for entry in list(self._entries.values()):
            if entry.outcome is not None:
                self._close(entry, hurry=True)
            elif self._shelf is not None and (entry.rows or entry.running):
                reason = "the replay logger was stopped in mid-episode"
                self._shelf.finish(entry.episode_id, interrupted(entry.rows, reason, entry.running))

    # -- inside ----------------------------------------------------------------------------------

    def _entry(self, episode_id: str) -> _Entry | None:
        """None for what an earlier logger, or this one, has finished."""
        if not episode_id or episode_id in self._finished:
            return None
        if episode_id not in self._entries:
            self._entries[episode_id] = _Entry(episode_id, self._clock())
            if self._shelf is not None:
                self._shelf.begin(episode_id)
        return self._entries[episode_id]

    def _joined(self, row: StepRow) -> None:
        entry = self._entries.get(row.episode_id)
        if entry is not None and not entry.settled:
            entry.joined += 1
            entry.lost_frames += len(row.cameras) - len(row.images)
            entry.unsent.append(row)

    def _supersede(self) -> None:
        """A controller runs one episode at a time: of those before the newest no outcome will come."""
        newest = max(entry.began for entry in self._entries.values())
        if self._clock() - newest < SETTLE_S:
            return
        for entry in self._entries.values():
            if entry.outcome is None and entry.began < newest:
                self._interrupt(entry, "the controller went on to another episode")

    def _interrupt(self, entry: _Entry, reason: str) -> None:
        entry.outcome, entry.ended = interrupted(entry.rows, reason, entry.running), self._clock()

    def _send_rows(self, entry: _Entry) -> None:
        if entry.running is None and self._clock() < entry.began + ORDER_S:
            return
        with_frames = entry.running is None or entry.running.spec.record_images
        for row in entry.unsent:
            self._send(step_record(row if with_frames else dataclasses.replace(row, images={})))
        entry.unsent.clear()

    def _close(self, entry: _Entry, hurry: bool = False) -> None:
        outcome, waited = entry.outcome, self._clock() - entry.ended
        assert outcome is not None
        if not entry.settled:
            complete = entry.joined == len(entry.rows) and all(s in entry.rows for s in outcome.sequences)
            if not (complete or hurry or waited >= SETTLE_S):
                return
            for row in self.joiner.give_up(entry.episode_id):
                self._joined(row)
            self._send_rows(entry)
            entry.outcome = outcome = self._judged(entry, outcome)
            entry.settled = True
            if self._shelf is not None:
                self._shelf.finish(entry.episode_id, outcome)
            self._last = entry.episode_id
        if outcome.label or outcome.voided or hurry or waited >= self._label_window_s:
            self._finish(entry, outcome)

    def _judged(self, entry: _Entry, outcome: Outcome) -> Outcome:
        """Voided if steps are missing, or frames that the learner wants; cut before the first missing step."""
        missing = [s for s in outcome.sequences if s not in entry.rows]
        self.steps_missed += len(missing)
        if missing and not outcome.voided:
            outcome = outcome.void(f"{len(missing)} of its {len(outcome.sequences)} steps never came")
        elif entry.lost_frames and outcome.spec.record_images and not outcome.voided:
            outcome = outcome.void(f"{entry.lost_frames} of its frames never came")
        if missing:
            last = missing[0] - 1
            outcome = dataclasses.replace(outcome, last_sequence=last, ticks=last - outcome.first_sequence + 1)
        return outcome

    def _finish(self, entry: _Entry, outcome: Outcome) -> None:
        self._send(outcome_record(outcome))
        self.episodes += 1
        self.voided += outcome.voided or outcome.label == "void"
        del self._entries[entry.episode_id]
        self._finished.add(entry.episode_id)
        _note(self._ledger, outcome)


def _read_ledger(path: Path) -> set[str]:
    names = set()
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            names.add(json.loads(line)["episode_id"])
        except (ValueError, KeyError, TypeError):
            continue  # half a line, of a logger that was killed
    return names


def _note(path: Path, outcome: Outcome) -> None:
    """The ledger only saves repetitions, which the learner recognises: no fault of it matters."""
    line = {"episode_id": outcome.episode_id, "last_sequence": outcome.last_sequence, "voided": outcome.voided}
    try:
        with storage_errors(path), open(path, "a") as file:
            file.write(json.dumps(line) + "\n")
    except StorageError:
        return
