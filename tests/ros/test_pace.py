"""The controller's rhythm, with a clock in the hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pld_ros.control.pace import MISSED_S, Pace

PERIOD_S = 0.0625  # exact in binary, so that sums are, too


class Hand:
    """A clock that moves when somebody sleeps, or by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.fixture
def hand() -> Hand:
    return Hand()


def pace_of(hand: Hand) -> Pace:
    pace = Pace(PERIOD_S, lambda: hand.now, hand.sleep)
    pace.start(hand.now)
    return pace


def ticks(pace: Pace, hand: Hand, work_s: list[float]) -> list[float]:
    """When each tick began; ``work_s`` is what each of them took."""
    began = []
    for seconds in work_s:
        pace.wait()
        began.append(hand.now - 100.0)
        hand.now += seconds
        pace.done()
    return began


def test_deadlines_are_absolute_however_long_the_work_takes(hand: Hand) -> None:
    began = ticks(pace_of(hand), hand, [0.01, 0.04, 0.0, 0.06, 0.02])
    assert began == [PERIOD_S * k for k in range(1, 6)]


def test_the_present_tick_is_due_when_start_says_so(hand: Hand) -> None:
    pace = pace_of(hand)
    pace.start(hand.now + 0.5)
    assert ticks(pace, hand, [0.0]) == [0.5 + PERIOD_S]


def test_a_tick_that_is_late_by_less_than_a_period_does_not_move_the_next(hand: Hand) -> None:
    pace = pace_of(hand)
    assert ticks(pace, hand, [1.5 * PERIOD_S, 0.0, 0.0]) == [PERIOD_S, 2.5 * PERIOD_S, 3 * PERIOD_S]
    assert pace.skipped == 0


@pytest.mark.parametrize(("overrun", "skipped", "next_tick"), [(2.0, 1, 3.0), (3.5, 2, 4.5), (100.0, 99, 101.0)])
def test_an_overrun_is_skipped_and_never_made_up_for(hand: Hand, overrun: float, skipped: int, next_tick: float):
    pace = pace_of(hand)
    began = ticks(pace, hand, [overrun * PERIOD_S, 0.0, 0.0])
    assert began[1] == next_tick * PERIOD_S
    assert began[2] == (int(next_tick) + 1) * PERIOD_S
    assert pace.skipped == skipped


@given(st.lists(st.integers(0, 512), min_size=1, max_size=40))
def test_each_period_holds_one_tick_at_most_and_none_begins_early(work: list[int]) -> None:
    hand = Hand()
    pace = pace_of(hand)
    periods = [int(began / PERIOD_S) for began in ticks(pace, hand, [step / 1024 for step in work])]
    assert all(a < b for a, b in pairwise(periods))
    assert periods[-1] == len(work) + pace.skipped
    assert pace.ticks == len(work)


@pytest.mark.parametrize(("late_s", "missed"), [(0.9 * MISSED_S, 0), (1.1 * MISSED_S, 1)])
def test_a_tick_that_begins_more_than_10_ms_late_is_missed(hand: Hand, late_s: float, missed: int) -> None:
    pace = pace_of(hand)
    ticks(pace, hand, [PERIOD_S + late_s, 0.0, 0.0])
    assert (pace.ticks, pace.missed, pace.skipped) == (3, missed, 0)
    assert pace.worst_late_s == pytest.approx(late_s)
    assert pace.late_s == 0.0, "the last one was in time"


def test_a_command_that_is_out_more_than_10_ms_late_is_counted(hand: Hand) -> None:
    pace = pace_of(hand)
    ticks(pace, hand, [0.0, 0.9 * MISSED_S, 1.1 * MISSED_S, 0.0])
    assert (pace.ticks, pace.late_commands, pace.missed) == (4, 1, 0)


def test_a_sleep_that_takes_too_long_is_late_too(hand: Hand) -> None:
    pace = Pace(PERIOD_S, lambda: hand.now, lambda seconds: hand.sleep(seconds + 2 * MISSED_S))
    pace.start(hand.now)
    pace.wait()
    assert pace.late_s == pytest.approx(2 * MISSED_S)
    assert pace.missed == 1


def test_ticks_that_pass_in_a_sleep_are_skipped_at_once(hand: Hand) -> None:
    """Not at the next tick: what this one is decided on would be recorded as if it were in time."""
    pace = Pace(PERIOD_S, lambda: hand.now, lambda seconds: hand.sleep(seconds + 3.5 * PERIOD_S))
    pace.start(hand.now)
    pace.wait()
    assert (pace.skipped_now, pace.late_s) == (3, 0.5 * PERIOD_S)


def test_ticks_that_are_over_are_known_within_one(hand: Hand) -> None:
    pace = pace_of(hand)
    ticks(pace, hand, [3.5 * PERIOD_S, 0.0])
    assert pace.over == 2
    hand.now += 1.5 * PERIOD_S
    assert pace.over == 4


def test_skipped_ticks_are_missed(hand: Hand) -> None:
    pace = pace_of(hand)
    ticks(pace, hand, [3.5 * PERIOD_S, 0.0])
    assert (pace.skipped_now, pace.skipped, pace.missed) == (2, 2, 3), "and the next one begins late"


def test_after_a_start_anew_the_time_before_is_not_late(hand: Hand) -> None:
    pace = pace_of(hand)
    ticks(pace, hand, [0.0])
    hand.now += 60.0  # paused
    pace.start(hand.now)
    ticks(pace, hand, [0.0])
    assert (pace.missed, pace.skipped) == (0, 0)
