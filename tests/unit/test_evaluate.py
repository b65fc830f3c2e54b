"""What an evaluation counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from pld_core.stages.evaluate import Evaluation, evaluate
from pld_core.statistics import wilson
from pld_core.types import Episode, EpisodeSpec


def episode(spec: EpisodeSpec, length: int, success: bool, voided: bool) -> Episode:
    rows, actions, zeros = np.zeros((length + 1, 1)), np.zeros((length, 1)), np.zeros(length)
    return Episode(
        spec, "", rows, rows, {}, rows, actions, actions, zeros, zeros, zeros, False, True, success,
        voided=voided, environment_success=success or voided,
    )  # fmt: skip


class Runner:
    """Seeds below 3 succeed, after as many ticks and one; ``voided`` ones are spoilt after 50."""

    def __init__(self, *voided: int) -> None:
        self.voided = voided

    def run(self, specs: Sequence[EpisodeSpec], actor: object = None) -> Iterator[Episode]:
        for spec in specs:
            spoilt = spec.seed in self.voided
            yield episode(spec, 50 if spoilt else spec.seed + 1, spec.seed < 3 and not spoilt, spoilt)


def evaluated(*voided: int, episodes: int = 6) -> tuple[Evaluation, list[float]]:
    rates: list[float] = []
    found = evaluate(
        Runner(*voided), "t", range(episodes), round_size=3,  # type: ignore[arg-type]
        on_progress=lambda _, metrics: rates.append(metrics["success_rate"]),
    )  # fmt: skip
    return found, rates


def test_void_episodes_are_counted_apart() -> None:
    found, rates = evaluated(1, 5)
    assert (found.successes, found.episodes, found.voided) == (2, 4, 2)
    assert (found.rate, found.ci95) == (0.5, wilson(2, 4))
    assert (found.mean_length, found.mean_success_length) == ((1 + 3 + 4 + 5) / 4, 2.0)
    assert found.outcomes == (True, False, True, False, False, False)  # one for each seed
    assert (found.false_successes, found.missed_successes) == (0, 0)
    assert rates == [1.0, 0.5]
    assert found.summary()["voided"] == found.by_reward()["voided"] == 2


def test_nothing_is_said_of_void_episodes_where_there_are_none() -> None:
    found, _ = evaluated()
    assert found.summary() == {
        "successes": 3, "episodes": 6, "rate": 0.5, "ci95": [round(bound, 4) for bound in wilson(3, 6)],
        "mean_length": 3.5, "mean_success_length": 2.0,
    }  # fmt: skip
    assert "voided" not in found.by_reward()


def test_all_void_is_no_failure_of_the_policy() -> None:
    found, _ = evaluated(0, 1, episodes=2)
    assert (found.rate, found.ci95, found.episodes, found.mean_length) == (0.0, (0.0, 1.0), 0, 0.0)
    assert math.isnan(found.mean_success_length)
