"""How a success is judged: predicate, debounce, calibration, threshold, measures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pld_core.errors import ConfigError, UnknownNameError
from pld_core.rewards.classifier.calibration import Calibration, calibrate, calibration_error, choose_threshold
from pld_core.rewards.classifier.measures import Scored, measure, roc
from pld_core.rewards.debounce import Debounce, Latch
from pld_core.rewards.predicate import Predicate

NAMES = ("tool_z_m", "gripper_width_m")


# -- predicate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "proprio", "holds"),
    [
        ("", (9, 9), True),
        ("tool_z_m < 0.12", (0.1, 0), True),
        ("tool_z_m < 0.12", (0.12, 0), False),
        ("tool_z_m <= 1.2e-1 and gripper_width_m>=.01", (0.12, 0.01), True),
        ("0.05 < tool_z_m < 0.12", (0.04, 0), False),
        ("0.05 < tool_z_m < 0.12", (0.06, 0), True),
        ("-0.5 >= gripper_width_m", (0, -0.5), True),
        ("tool_z_m < 0.12", (np.nan, 0), False),
    ],
)
def test_predicate(text, proprio, holds):
    predicate = Predicate.parse(text, NAMES)
    for kind in (np.float32, np.float64):
        row = np.array(proprio, kind)
        assert predicate.holds(row) == holds
        np.testing.assert_array_equal(predicate.holds_each(np.stack([row, row])), [holds, holds])


@pytest.mark.parametrize(
    "text",
    ["tool_z_m", "tool_z_m < ", "0 < 1", "tool_z_m < gripper_width_m", "tool_z_m = 1", "tool_z_m < 1 or tool_z_m > 2"]
    + ["__import__('os').system('x') < 1", "tool_z_m < 1 and", "tool_z_m < (1)", "tool_z_m.x < 1"],
)
def test_predicate_that_is_none(text):
    with pytest.raises(ConfigError):
        Predicate.parse(text, NAMES)


def test_predicate_suggests_the_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'tool_z_m'"):
        Predicate.parse("tool_z < 1", NAMES)


# -- debounce ----------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 4), st.integers(0, 3))
def test_debounce_of_a_whole_episode_is_that_of_its_ticks(votes, needed, extra):
    rule = Debounce(needed, needed + extra)
    latch = Latch(rule)
    closed = [latch.see(vote) for vote in votes]
    assert rule.first(votes) == (closed.index(True) if any(closed) else None)
    assert closed == sorted(closed)  # it stays closed


@pytest.mark.parametrize("numbers", [(0, 3), (4, 3)])
def test_debounce_that_cannot_be(numbers):
    with pytest.raises(ConfigError, match="N of M"):
        Debounce(*numbers)


# -- calibration and threshold -----------------------------------------------------------------------


def test_calibration_recovers_an_over_confident_and_shifted_logit():
    rng = np.random.default_rng(0)
    honest = rng.normal(-1.0, 2.0, 20_000)
    success = rng.random(20_000) < 1 / (1 + np.exp(-honest))
    given = 3.0 * (honest + 0.7)
    found = calibrate(given, success)
    assert found.temperature == pytest.approx(3.0, rel=0.1)
    assert found.offset == pytest.approx(-0.7, abs=0.1)
    before = calibration_error(Calibration().probability(given), success)
    assert calibration_error(found.probability(given), success) < 0.02 < before


def test_calibration_of_separable_logits_stays_finite():
    found = calibrate(np.array([-9.0] * 50 + [9.0] * 5), np.array([False] * 50 + [True] * 5))
    assert np.isfinite([found.temperature, found.offset]).all()
    assert found.probability(np.array([-1e9, 1e9])).tolist() == pytest.approx([0, 1], abs=1e-9)


def scored(*episodes: tuple[list[float], list[int]]) -> list[Scored]:
    return [
        Scored(f"{k}", "toy", np.array(p), np.array(s, bool), np.ones(len(p), bool))
        for k, (p, s) in enumerate(episodes)
    ]


def test_threshold_counts_failed_episodes_not_only_frames():
    """One failure in a hundred frames is rare by the frame, and every second episode by the episode."""
    failed = ([0.1] * 98 + [0.6, 0.6], [0] * 100)
    quiet = ([0.1] * 100, [0] * 100)
    done = ([0.1] * 90 + [0.9] * 10, [0] * 90 + [1] * 10)
    episodes = [(np.array(p), np.array(s, bool)) for p, s in (failed, quiet, done)]
    threshold = choose_threshold(episodes, Debounce(2, 3), 0.02)
    assert 0.6 < threshold < 0.9
    rates = measure(scored(failed, quiet, done), threshold, Debounce(2, 3))["episodes"]
    assert (rates["false_positive"]["count"], rates["recall"]["count"]) == (0, 1)


@pytest.mark.parametrize(("failed", "above"), [(20, 0), (100, 0), (200, 1), (300, 2)])
def test_threshold_expects_the_rate_of_new_failures(failed, above):
    """The k-th highest of n peaks is exceeded by k of n + 1, not by k - 1 of n."""
    peaks = np.linspace(0.2, 0.4, failed)
    episodes = [(np.array([0.1] * 400 + [p]), np.zeros(401, bool)) for p in peaks]
    episodes.append((np.array([0.1, 0.9]), np.array([False, True])))
    threshold = choose_threshold(episodes[:-1], Debounce(1, 1), 0.01)
    assert (peaks > threshold).sum() == above
    assert threshold < choose_threshold(episodes, Debounce(1, 1), 0.01) < 0.9


def test_threshold_needs_a_rate_between_zero_and_one():
    with pytest.raises(ConfigError, match="max_false_positive_rate"):
        choose_threshold([(np.array([0.1, 0.9]), np.array([False, True]))], Debounce(1, 1), 0.0)


def test_measures():
    early = ([0.9, 0.9, 0.9, 0.9], [0, 0, 1, 1])
    late = ([0.1, 0.1, 0.9, 0.9], [0, 1, 1, 1])
    missed = ([0.1, 0.1, 0.1, 0.9], [0, 0, 1, 1])
    alarm = ([0.9, 0.9, 0.1, 0.1], [0, 0, 0, 0])
    found = measure(scored(early, late, missed, alarm), 0.5, Debounce(2, 3))
    episodes, frames = found["episodes"], found["frames"]
    assert (episodes["recall"]["count"], episodes["recall"]["of"]) == (2, 3)
    assert (episodes["false_positive"]["count"], episodes["false_positive"]["of"]) == (1, 1)
    assert episodes["early"]["count"] == 1
    assert episodes["delay_ticks"] == {"median": 0.5, "earliest": -1, "latest": 2}
    assert (frames["false_positive"]["count"], frames["false_positive"]["of"]) == (4, 9)
    assert (frames["recall"]["count"], frames["recall"]["of"]) == (5, 7)
    assert episodes["fleeting"] == 0
    short = measure(scored(([0.1] * 4, [0, 1, 0, 0])), 0.5, Debounce(2, 3))["episodes"]
    assert (short["fleeting"], short["recall"]["of"], short["false_positive"]["of"]) == (1, 0, 0)


def test_roc_area():
    perfect = scored(([0.1, 0.2, 0.8], [0, 0, 1]))
    assert roc(perfect)[2] == 1.0
    assert roc(scored(([0.5, 0.5], [0, 1])))[2] == pytest.approx(0.5)
