"""Harvest and probe: nothing finished is lost, no seed comes twice, and what counts as a success."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import NonFiniteError, StageError
from pld_core.stages.harvest import harvest, successful
from pld_core.stages.probe import probe
from pld_core.stages.seeds import training_seeds
from pld_core.types import Episode, EpisodeSpec


def episode(spec: EpisodeSpec, success: bool) -> Episode:
    row, action = np.zeros((2, 1), np.float32), np.zeros((1, 1), np.float32)
    return Episode(
        spec, "", row, row, {}, row, action, action, np.zeros(1, np.float32), np.zeros(1, np.uint8), np.zeros(1, bool),
        terminated=success, truncated=not success, success=success,
    )  # fmt: skip


class Scripted:
    """Every third seed succeeds; ``voided`` seeds claim to; the fault comes at seed number ``breaks_at``."""

    def __init__(self, breaks_at: int | None = None, voided: Sequence[int] = ()) -> None:
        self.breaks_at, self.voided = breaks_at, voided

    def run(self, specs: Sequence[EpisodeSpec], actor: object = None) -> Iterator[Episode]:
        for spec in specs:
            number = spec.seed % 1_000_000
            if number == self.breaks_at:
                raise NonFiniteError("The camera is gone.")
            voided = number in self.voided
            yield dataclasses.replace(episode(spec, voided or number % 3 == 0), voided=voided)


def collect(store: EpisodeStore, runner: Scripted, successes: int = 9, max_episodes: int = 100) -> None:
    harvest(runner, store, "t", 0, successes, max_episodes, round_size=10)  # type: ignore[arg-type]


def seeds(store: EpisodeStore) -> list[int]:
    return [e.spec.seed for e in store]


def expected(count: int) -> list[int]:
    return list(islice(training_seeds("harvest", 0), count))


def test_a_fault_keeps_what_was_harvested_before_it(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    with pytest.raises(NonFiniteError, match="camera is gone"):
        collect(store, Scripted(breaks_at=14))
    assert seeds(EpisodeStore(tmp_path)) == expected(14)


@pytest.mark.parametrize("breaks_at", [0, 14, 26, 29])  # 26: nine successes are there, but their round is not over
def test_an_interrupted_harvest_ends_like_one_that_was_not(tmp_path: Path, breaks_at: int) -> None:
    store = EpisodeStore(tmp_path)
    with pytest.raises(NonFiniteError):
        collect(store, Scripted(breaks_at))
    collect(store, Scripted())
    assert seeds(store) == expected(30)


def test_no_seed_is_harvested_twice_after_a_damaged_file(tmp_path: Path) -> None:
    collect(EpisodeStore(tmp_path), Scripted(), successes=3)
    (tmp_path / "episode-00000003.npz").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="damaged"):
        store = EpisodeStore(tmp_path)
    collect(store, Scripted())
    assert seeds(store) == [seed for seed in expected(30) if seed != expected(4)[-1]]


def test_a_voided_episode_is_kept_but_is_no_success(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    with pytest.raises(StageError, match="succeeded in 9 of 30"):
        collect(store, Scripted(voided=(0, 1, 2)), successes=10, max_episodes=30)
    assert sum(e.voided for e in store) == 3
    assert len(successful(store)) == 9


def probed(store: EpisodeStore, runner: Scripted) -> dict[str, float]:
    return probe(runner, None, store, lambda seed: EpisodeSpec("t", seed), 0, episodes=9, round_size=10)  # type: ignore[arg-type]


def test_an_interrupted_probe_loses_no_success_and_ends_alike(tmp_path: Path) -> None:
    whole, broken = EpisodeStore(tmp_path / "whole"), EpisodeStore(tmp_path / "broken")
    result = probed(whole, Scripted())
    with pytest.raises(NonFiniteError):
        probed(broken, Scripted(breaks_at=14))
    assert [m["attempt"] for m in broken.metadata()] == [0, 3, 6, 9, 12]
    assert probed(broken, Scripted()) == result
    assert seeds(broken) == seeds(whole)


def test_a_voided_probe_is_not_kept(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    probed(store, Scripted(voided=(0, 1)))
    assert [m["attempt"] for m in store.metadata()][:2] == [3, 6]
