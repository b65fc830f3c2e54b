"""An oracle's demonstrations, from one environment or from several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest

from pld_core import bring
from pld_core.errors import ContractError, EpisodeLostError
from pld_core.stages.demonstrate import BurstNoise, demonstrations
from pld_core.types import TimeStep


class Elsewhere:
    """An environment whose ticks run elsewhere, and which is out of order once one is not waited for."""

    most_at_once = under_way = 0

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._waited_for = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    def begin_step(self, action: np.ndarray) -> Callable[[], TimeStep]:
        assert self._waited_for
        self._count(+1)

        def end() -> TimeStep:
            self._count(-1)
            return self._environment.step(action)

        return end

    def reset(self, seed: int) -> TimeStep:
        assert self._waited_for
        return self._environment.reset(seed)

    def _count(self, change: int) -> None:
        self._waited_for = change < 0
        Elsewhere.under_way += change
        Elsewhere.most_at_once = max(Elsewhere.most_at_once, Elsewhere.under_way)


@pytest.fixture
def environments(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Elsewhere]]:
    monkeypatch.setattr(Elsewhere, "most_at_once", 0)
    made = bring.environment_factory("cube_pickup")(3)
    yield [Elsewhere(environment) for environment in made]
    for environment in made:
        environment.close()


def test_several_environments_give_the_attempts_of_one_in_order(environments: list[Elsewhere]) -> None:
    noise = BurstNoise()
    alone = list(islice(demonstrations(environments[:1], 0, noise, first=2), 4))  # type: ignore[arg-type]
    assert Elsewhere.most_at_once == 1
    together = list(islice(demonstrations(environments, 0, noise, first=2), 4))  # type: ignore[arg-type]
    assert Elsewhere.most_at_once == 3
    assert [number for number, _ in together] == [number for number, _ in alone] == [2, 3, 4, 5]
    assert len({len(episode) for _, episode in alone}) > 1, "they do not all end at once"
    for (_, one), (_, other) in zip(alone, together, strict=True):
        assert one.spec == other.spec
        for name in ("action", "residual", "proprio", "reward"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_an_environment_can_be_used_again_after_the_end(environments: list[Elsewhere]) -> None:
    made = demonstrations(environments, 0)  # type: ignore[arg-type]
    next(made)
    assert Elsewhere.under_way > 0
    made.close()
    assert Elsewhere.under_way == 0
    for environment in environments:
        environment.reset(0)


def test_a_worker_that_dies_over_what_nobody_needs_is_no_failure(
    environments: list[Elsewhere], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = demonstrations(environments, 0)  # type: ignore[arg-type]
    next(made)

    def dead(action: np.ndarray) -> TimeStep:
        raise ContractError("The worker is gone.")

    for environment in environments:
        monkeypatch.setattr(environment._environment, "step", dead)
    made.close()
    assert Elsewhere.under_way == 0


def test_a_demonstration_whose_process_is_lost_begins_again(
    environments: list[Elsewhere], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = list(islice(demonstrations(environments, 0), 3))  # type: ignore[arg-type]
    step, ticks = environments[1]._environment.step, iter(range(1000))

    def dies_once(action: np.ndarray) -> TimeStep:
        if next(ticks) == 5:
            raise EpisodeLostError("The worker is gone.")
        return step(action)

    monkeypatch.setattr(environments[1]._environment, "step", dies_once)
    with pytest.warns(UserWarning, match=r"The worker is gone\. The demonstration begins again"):
        disturbed = list(islice(demonstrations(environments, 0), 3))  # type: ignore[arg-type]
    for (number, episode), (same_number, same) in zip(undisturbed, disturbed, strict=True):
        assert number == same_number
        np.testing.assert_array_equal(episode.action, same.action)
