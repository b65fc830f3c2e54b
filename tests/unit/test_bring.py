"""All the ways to name or hand over an environment and a reward."""

from __future__ import annotations

import threading
from functools import partial

import gymnasium
import pytest

from pld_core import bring
from pld_core.errors import ConfigError, ContractError, UnknownNameError
from pld_core.interfaces import Environment
from pld_sim.point_reach import PointReach, point_reach

MODULE = """
import gymnasium
from pld_sim.point_reach import PointReach

def one():
    return gymnasium.make("Pendulum-v1")

def make_lanes(lanes):
    return [gymnasium.make("Pendulum-v1") for _ in range(lanes)]

instance = PointReach()
"""


def one_with_a_default(camera: int = 0) -> PointReach:
    return PointReach(bool(camera))


class Maker:
    def make(self) -> PointReach:
        return PointReach()

    def make_lanes(self, lanes: int) -> list[PointReach]:
        return point_reach(lanes)


@pytest.fixture
def module(tmp_path, monkeypatch) -> str:
    (tmp_path / "brought_environments.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "brought_environments"


def made(given: object, lanes: int = 3) -> list[Environment]:
    environments = list(bring.environment_factory(given)(lanes))
    assert all(isinstance(environment, Environment) for environment in environments)
    assert len({id(environment) for environment in environments}) == len(environments)
    return environments


def test_a_gymnasium_id_is_a_name() -> None:
    assert [environment.task for environment in made("Pendulum-v1")] == ["Pendulum-v1"] * 3


def test_an_installed_name_still_comes_first() -> None:
    assert [environment.task for environment in made("point_reach")] == ["point_reach"] * 3


def test_an_unknown_name_says_what_is_valid() -> None:
    with pytest.raises(UnknownNameError, match=r"point_reach.*Gymnasium id"):
        bring.environment_factory("point_reech")


@pytest.mark.parametrize("attribute", ["one", "make_lanes"])
def test_module_and_attribute_are_adapted_like_objects(module: str, attribute: str) -> None:
    assert [environment.task for environment in made(f"{module}:{attribute}")] == ["Pendulum-v1"] * 3


def test_module_and_attribute_may_name_an_environment(module: str) -> None:
    assert len(made(f"{module}:instance")) == 1


@pytest.mark.parametrize(
    "given",
    [
        PointReach,
        one_with_a_default,
        Maker().make,
        Maker().make_lanes,
        partial(PointReach, camera=False),
        partial(point_reach, camera=False),
        partial(gymnasium.make, "Pendulum-v1"),
        lambda: PointReach(),
        lambda lanes: point_reach(lanes),
    ],
)
def test_every_kind_of_callable_makes_the_lanes_asked_for(given: object) -> None:
    assert len(made(given)) == 3


@pytest.mark.parametrize("given", [PointReach, one_with_a_default])
def test_the_number_of_lanes_is_no_argument_of_something_else(given: object) -> None:
    assert not made(given)[0].observation_spec.cameras  # three lanes are not camera=3


def test_an_environment_is_one_lane() -> None:
    assert len(made(PointReach())) == 1
    assert len(made(gymnasium.make("Pendulum-v1"))) == 1


def test_a_callable_that_needs_more_is_refused_before_anything_is_made() -> None:
    with pytest.raises(ConfigError, match=r"needs robot.*functools.partial"):
        bring.environment_factory(lambda robot, lanes: [])


@pytest.mark.parametrize("answer", [[], PointReach()])
def test_a_factory_of_lanes_must_answer_a_list(answer: object) -> None:
    with pytest.raises(ContractError, match="answers a list"):
        bring.environment_factory(lambda lanes: answer)(2)


class Counting:
    def __init__(self) -> None:
        self.steps = 0

    def reset(self) -> None:
        self.steps = 0

    def score(self, step: object) -> tuple[float, bool]:
        self.steps += 1
        return float(self.steps), False


def test_lanes_do_not_share_a_reward_that_remembers() -> None:
    given = Counting()
    make = bring.reward_factory(given)
    first, second = make(), make()
    first.score(None)  # type: ignore[arg-type]
    assert second.score(None)[0] == 1.0  # type: ignore[arg-type]
    assert given.steps == 0


def test_a_reward_that_cannot_be_copied_asks_for_a_maker() -> None:
    given = Counting()
    given.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="Give a callable that makes one"):
        bring.reward_factory(given)()
