"""Rows and outcomes become the very episodes that a LocalRunner makes, in whatever order they come."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from recorded import assert_same, local_episodes, outcome_of_episode, rows_of

from pld_core.errors import ContractError
from pld_core.stages.recorder import EpisodeRecorder, blank_row
from pld_core.types import TimeStep
from pld_ros.recording.assembler import (
    EpisodeAssembler,
    StepRow,
    assemble,
    outcome_record,
    relabelled,
    row_of,
    step_record,
)
from pld_ros.recording.records import Outcome
from pld_sim.point_reach import point_reach


@pytest.fixture(scope="module")
def episodes():
    found = local_episodes(4)
    assert {episode.success for episode in found} == {True, False}
    return found


@pytest.fixture
def clock():
    return Clock()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def records_of(episodes) -> list[dict]:
    records, first = [], 1
    for k, episode in enumerate(episodes):
        records += [step_record(row) for row in rows_of(episode, f"e{k}", first)]
        records.append(outcome_record(outcome_of_episode(episode, f"e{k}", first)))
        first += len(episode) + 1
    return records


def by_id(done) -> dict:
    return {assembled.report.episode_id: assembled for assembled in done}


def test_in_order_the_episodes_come_out_bit_for_bit(episodes):
    assembler = EpisodeAssembler()
    done = [assembled for record in records_of(episodes) for assembled in assembler.add(record)]
    assert [assembled.report.episode_id for assembled in done] == ["e0", "e1", "e2", "e3"]
    for assembled, expected in zip(done, episodes, strict=True):
        assert_same(assembled.episode, expected)
        assert assembled.report.missing == ()
        assert assembled.report.weights_version == "w1"
    assert assembler.pending == []


@pytest.mark.parametrize("seed", range(5))
def test_any_order_and_repetitions_change_nothing(episodes, seed):
    records = records_of(episodes) * 2
    random.Random(seed).shuffle(records)
    assembler = EpisodeAssembler()
    done = by_id(assembled for record in records for assembled in assembler.add(record))
    assert sorted(done) == ["e0", "e1", "e2", "e3"]
    for k, expected in enumerate(episodes):
        assert_same(done[f"e{k}"].episode, expected)


def test_without_recorded_images_there_are_none(episodes):
    spec = dataclasses.replace(episodes[0].spec, record_images=False)
    outcome = outcome_of_episode(episodes[0], "e", spec=spec)
    made = assemble(outcome, {row.sequence: row for row in rows_of(episodes[0], "e")}).episode
    assert not made.voided
    assert made.images == {}


def test_a_missing_step_voids_the_episode_once_it_is_overdue(episodes, clock):
    assembler = EpisodeAssembler(patience_s=10.0, clock=clock)
    rows = rows_of(episodes[0], "e", first=7)
    for row in rows[:3] + rows[4:]:
        assert assembler.add_row(row) == []
    assert assembler.add_outcome(outcome_of_episode(episodes[0], "e", first=7)) == []
    assert assembler.overdue() == []
    clock.now = 10.1
    (assembled,) = assembler.overdue()
    assert assembled.episode.voided
    assert not assembled.episode.success
    assert assembled.report.missing == (10,)
    assert "10" in assembled.report.reason
    assert len(assembled.episode) == 3, "what came before the gap is kept"
    assert assembler.add_row(rows[3]) == [], "too late"
    assert assembler.pending == []


def test_an_episode_without_outcome_is_voided_when_a_later_one_runs(episodes, clock):
    assembler = EpisodeAssembler(patience_s=10.0, clock=clock)
    for row in rows_of(episodes[0], "lost")[:4]:
        assembler.add_row(row)
    clock.now = 100.0
    assert assembler.overdue() == [], "the operator may have paused it"
    assembler.add_row(rows_of(episodes[1], "next", first=50)[0])
    (assembled,) = assembler.overdue()
    assert assembled.report.episode_id == "lost"
    assert assembled.episode.voided
    assert "never came" in assembled.report.reason
    assert assembler.pending == ["next"]


def test_a_lost_frame_voids(episodes):
    rows = rows_of(episodes[0], "e")
    rows[2] = dataclasses.replace(rows[2], images={})
    assembled = assemble(outcome_of_episode(episodes[0], "e"), {row.sequence: row for row in rows})
    assert assembled.episode.voided
    assert "top at tick 2" in assembled.report.reason
    assert not assembled.episode.images["top"][2].any()


@pytest.mark.parametrize(
    "change",
    [{"ticks": 3}, {"last_sequence": 4}, {"first_sequence": 2}],
)
def test_an_outcome_that_contradicts_the_steps_voids(episodes, change):
    outcome = outcome_of_episode(episodes[0], "e", **change)
    assembled = assemble(outcome, {row.sequence: row for row in rows_of(episodes[0], "e")})
    assert assembled.episode.voided
    assert assembled.report.reason


@pytest.mark.parametrize("seen_after_the_last_action", [True, False])
def test_a_voided_episode_closes_as_the_recorder_closes_it(episodes, seen_after_the_last_action):
    environment, rows = point_reach(1, camera=True)[0], rows_of(episodes[0], "e")
    recorder = EpisodeRecorder(episodes[0].spec)
    for row in rows[:4]:
        recorder.see(*observed(row, episodes[0].instruction))
        recorder.act(TimeStep(observed(row, "")[0]), 0.0, False)
    if seen_after_the_last_action:
        recorder.see(*observed(rows[4], episodes[0].instruction))
    expected = recorder.void("biased", blank_row(environment, rows[0].state.size))
    sent = rows[: 4 + seen_after_the_last_action]
    outcome = Outcome(
        "e", episodes[0].spec, episodes[0].instruction, "biased", "w1", 4, 1, len(sent), truncated=True, voided=True
    )
    assert_same(assemble(outcome, {row.sequence: row for row in sent}).episode, expected)


def test_a_fault_before_the_first_step_leaves_an_empty_voided_episode(episodes):
    assembler = EpisodeAssembler()
    for record in records_of(episodes[:1]):
        assembler.add(record)
    outcome = Outcome("e", episodes[0].spec, truncated=True, voided=True, reason="no camera")
    (assembled,) = assembler.add_outcome(outcome)
    assert len(assembled.episode) == 0
    assert assembled.report.reason == "no camera"
    assert assembled.episode.state.shape == (1, episodes[0].state.shape[1])
    assert np.isnan(assembled.episode.proprio).all()
    assert assemble(outcome, {}).episode.action.shape == (0, 0)


def observed(row: StepRow, instruction: str):
    from pld_core.control import Tick
    from pld_core.types import Observation

    observation = Observation(row.images, row.proprio, instruction)
    return observation, Tick(row.state, row.base_action, row.residual, row.action, row.source)


def test_the_operators_verdict_outweighs_the_reward(episodes):
    failed = next(episode for episode in episodes if not episode.success)
    won = relabelled(failed, "success")
    assert won.success
    assert won.terminated
    assert not won.truncated
    assert won.reward[-1] == 1.0
    assert failed.reward[-1] == 0.0, "the original stays"
    lost = relabelled(next(episode for episode in episodes if episode.success), "failure")
    assert not lost.success
    assert lost.terminated
    assert not lost.reward.any()
    assert relabelled(failed, "failure") is failed
    assert relabelled(failed, "") is failed
    assert relabelled(failed, "void").voided
    with pytest.raises(ContractError, match="success, failure, void"):
        relabelled(failed, "good")


def test_an_outcome_carries_the_verdict(episodes):
    failed = next(episode for episode in episodes if not episode.success)
    rows = {row.sequence: row for row in rows_of(failed, "e")}
    assert assemble(outcome_of_episode(failed, "e", label="success"), rows).episode.success
    voided = assemble(outcome_of_episode(failed, "e", label="void"), rows)
    assert voided.episode.voided
    assert "operator" in voided.report.reason


def test_what_is_no_record_is_refused_with_a_reason():
    assembler = EpisodeAssembler()
    with pytest.raises(ContractError, match="kind 'weights'"):
        assembler.add({"kind": "weights"})
    with pytest.raises(ContractError, match="lacks sequence"):
        assembler.add({"kind": "step", "episode_id": "e"})
    with pytest.raises(ContractError, match="kind 'episode'"):
        row_of({"kind": "episode"})
    with pytest.raises(ContractError, match="spec"):
        assembler.add({"kind": "episode", "episode_id": "e", "spec": {"tusk": "x"}})
