"""Frames find their steps, in whatever order a busy machine lets both be heard."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded import local_episodes, outcome_of_episode, rows_of

from pld_ros.recording.joiner import OVERTAKEN_S, SILENT_S, FrameJoiner
from pld_ros.recording.logbook import SETTLE_S, Logbook
from pld_ros.recording.records import StepRow
from pld_ros.recording.served_clock import MOST_S, ServedClock

CAMERA = "top"
FRAME = np.zeros((32, 32, 3), np.uint8)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def row() -> StepRow:
    first = rows_of(local_episodes(1)[0], "e")[0]
    return dataclasses.replace(first, images={}, stamps={**first.stamps, CAMERA: 100})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def joiner(clock: Clock, row: StepRow) -> FrameJoiner:
    joiner = FrameJoiner([CAMERA], clock=clock)
    joiner.step(row)
    return joiner


def test_a_step_waits_for_its_frame(joiner: FrameJoiner) -> None:
    assert not list(joiner.joined())
    joiner.frame(CAMERA, 100, FRAME)
    (joined,) = joiner.joined()
    assert joined.images[CAMERA] is FRAME
    assert joiner.missed == 0


def test_a_frame_that_was_overtaken_is_lost(joiner: FrameJoiner, clock: Clock) -> None:
    joiner.frame(CAMERA, 101, FRAME)
    assert not list(joiner.joined())
    clock.now = OVERTAKEN_S
    (joined,) = joiner.joined()
    assert not joined.images
    assert joiner.missed == 1


def test_frames_that_stand_in_line_are_not_given_up(joiner: FrameJoiner, clock: Clock) -> None:
    joiner.frame(CAMERA, 99, FRAME)
    clock.now = SILENT_S - 0.01
    assert not list(joiner.joined())
    joiner.frame(CAMERA, 100, FRAME)
    assert len(list(joiner.joined())) == 1
    assert joiner.missed == 0


def test_a_silent_camera_is_given_up(joiner: FrameJoiner, clock: Clock) -> None:
    clock.now = SILENT_S
    assert len(list(joiner.joined())) == 1
    assert joiner.missed == 1


def test_time_that_a_process_was_not_served_does_not_count(clock: Clock) -> None:
    served = ServedClock(clock)
    for _ in range(10):
        clock.now += MOST_S / 2
        served()
    clock.now += 60.0
    assert served() == pytest.approx(10 * MOST_S / 2 + MOST_S)


class Book:
    """A logbook with the steps of one successful episode, all of them heard, and what it has sent."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.sent: list[dict[str, Any]] = []
        self.episode = local_episodes(1)[0]
        self.rows = rows_of(self.episode, "e")
        self.logbook = Logbook(folder, [CAMERA], self.sent.append, clock=clock)
        self.logbook.status(outcome_of_episode(self.episode, "e"), done=False)

    def hear(self) -> None:
        for row in self.rows:
            self.logbook.step(dataclasses.replace(row, images={}))

    def see(self) -> None:
        for row in self.rows:
            self.logbook.frame(CAMERA, row.stamps[CAMERA], row.images[CAMERA])

    def end(self) -> None:
        self.logbook.status(outcome_of_episode(self.episode, "e"), done=True)

    @property
    def steps(self) -> int:
        return sum(record["kind"] == "step" for record in self.sent)

    @property
    def outcome(self) -> dict[str, Any]:
        (outcome,) = (record for record in self.sent if record["kind"] != "step")
        return outcome


def test_steps_that_still_wait_at_the_end_are_sent_and_void_it(tmp_path: Path, clock: Clock) -> None:
    book = Book(tmp_path, clock)
    book.end()
    clock.now = SETTLE_S - 1.0
    book.hear()  # late, and without frames
    clock.now = SETTLE_S
    book.logbook.poll()
    assert book.steps == len(book.rows)
    assert book.outcome["voided"]
    assert "of its frames never came" in book.outcome["reason"]


def test_a_logger_that_is_stopped_sends_what_waits(tmp_path: Path, clock: Clock) -> None:
    book = Book(tmp_path, clock)
    book.hear()
    book.end()
    assert book.steps == 0
    book.logbook.close()
    assert book.steps == len(book.rows)
    assert book.outcome["voided"]


def test_a_pause_of_the_logger_loses_nothing(tmp_path: Path, clock: Clock) -> None:
    book = Book(tmp_path, ServedClock(clock))  # type: ignore[arg-type]
    book.hear()
    book.end()
    clock.now += 60.0
    book.logbook.poll()  # a timer comes before what stands in line
    book.see()
    assert book.steps == len(book.rows)
    assert not book.outcome["voided"]
