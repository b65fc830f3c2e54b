"""Episodes tick by tick, under faults."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from episode_bodies import POINT, PointBody, assert_same_rows, point, undisturbed

from pld_core.control import ResidualController
from pld_core.errors import ContractError, PLDError, RobotError
from pld_core.types import Observation
from pld_ros.control.episode import Judgement, Orders, run_episode

EVERY_TICK = ("observe", "judge", "orders", "actor", "send")


@pytest.mark.parametrize("error", [RobotError, ContractError])
@pytest.mark.parametrize("method", EVERY_TICK)
def test_a_fault_of_any_part_voids_the_episode_and_keeps_the_rows_before_it(method: str, error: type[PLDError]) -> None:
    body, whole = PointBody(), undisturbed()
    body.faults[(method, 3)] = error("the cable is loose")
    carried = point(body)
    assert carried.outcome.voided
    assert (carried.outcome.success, carried.outcome.terminated, carried.outcome.truncated) == (False, False, True)
    assert carried.outcome.reason == carried.report.reason == "the cable is loose"
    assert carried.outcome.ticks == len(body.sent) == 3
    assert_same_rows(carried.steps, whole.steps[:3])
    assert carried.episode.voided
    assert carried.episode.action.tobytes() == whole.episode.action[:3].tobytes()
    assert np.isnan(carried.episode.proprio[3]).all()


@pytest.mark.parametrize("method", ["reset", "begin", "orders", "actor", "send"])
def test_a_fault_before_the_first_action_leaves_an_empty_voided_episode(method: str) -> None:
    body = PointBody()
    body.faults[(method, 0)] = RobotError("the arm is asleep")
    carried = point(body)
    assert carried.outcome.voided
    assert carried.steps == []
    assert len(carried.episode) == 0
    assert carried.episode.voided


def test_a_controller_that_cannot_be_made_voids_the_episode() -> None:
    def prepare(first: Observation) -> ResidualController:
        raise RobotError("no chunk came")

    outcome = run_episode(PointBody(), prepare, POINT, 30, lambda step: None)
    assert outcome.voided
    assert outcome.reason == "no chunk came"


def test_a_faulty_observation_voids_the_episode() -> None:
    class Nan(PointBody):
        def look(self) -> tuple[Observation, Judgement]:
            seen, word = super().look()
            return dataclasses.replace(seen, proprio=seen.proprio * (np.nan if self.tick == 3 else 1)), word

    carried = point(Nan())
    assert carried.outcome.voided
    assert "NaN" in carried.outcome.reason
    assert len(carried.episode) == 3


@pytest.mark.parametrize("reward", [np.nan, np.inf])
def test_a_reward_that_is_not_finite_voids_the_episode(reward: float) -> None:
    body = PointBody()
    body.judged = lambda tick, word: dataclasses.replace(word, reward=reward if tick == 3 else 0.0)
    carried = point(body)
    assert carried.outcome.voided
    assert "reward" in carried.outcome.reason
    assert np.isfinite(carried.episode.reward).all()


@pytest.mark.parametrize("command", [np.full(3, np.nan), np.zeros(7)])
def test_a_human_s_command_that_is_none_voids_the_episode_and_is_not_sent(command: np.ndarray) -> None:
    body = PointBody()
    body.planned[2] = Orders(intervention=command)
    assert point(body).outcome.voided
    assert len(body.sent) == 2


def test_the_simulator_s_success_is_remembered_though_the_episode_is_void() -> None:
    body, ticks = PointBody(), undisturbed().outcome.ticks
    body.planned[ticks] = Orders(verdict="void")
    episode = point(body).episode
    assert episode.voided
    assert not episode.success
    assert episode.environment_success


def test_a_programming_error_is_no_fault_of_the_robot_and_is_not_hidden() -> None:
    body = PointBody()
    body.faults[("observe", 3)] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        point(body)


def test_every_row_is_recorded_as_soon_as_it_has_happened_with_what_it_rests_on() -> None:
    body = PointBody()
    told = [(step.tick, step.latency_ms, step.weights_version) for step in point(body, max_steps=3).steps]
    assert told == [(0, 1.5, ""), (1, 1.5, ""), (2, 1.5, ""), (3, 0.0, "")]
