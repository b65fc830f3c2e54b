"""What can go wrong on a station, done to real processes over real DDS. docs/ros.md has the table.

``pytest -s`` shows the times that the table has.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ear import PATIENCE_S
from pld_msgs.msg import PolicyStep, RobotState
from pld_msgs.srv import EStop, Label, Pause
from station import NODES, Running, Station, entry
from test_bags import fill_up, small_disk

from pld_core.types import Episode
from pld_ros import topics

pytestmark = pytest.mark.slow
CHUNK, HOLD_TICKS = 8, 20  # entries of a chunk, ticks that the controller then lets the arm hold


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory, domain: int) -> Iterator[Station]:
    folder = tmp_path_factory.mktemp("faults")
    station = Station(folder, folder / "run", domain)
    try:
        station.start(*NODES)
        station.ready()
        yield station
    finally:
        station.close()


@pytest.fixture(autouse=True)
def _whole(station: Station) -> None:
    station.repair()


def test_a_camera_that_freezes_voids_the_episode(station: Station) -> None:
    running, frozen, outcome = station.spoilt(
        lambda: station.signal("camera", signal.SIGSTOP), lambda: station.signal("camera", signal.SIGCONT), "too old"
    )
    measured("camera frozen: the episode is void", outcome.at - frozen)
    assert_holds(station, outcome.at)
    station.signal("camera", signal.SIGCONT)
    assert_kept(station, running)
    assert_goes_on(station)


@pytest.mark.parametrize(("name", "why"), [("reward", "The reward node has judged nothing"), ("robot", "too old")])
def test_a_node_that_dies_voids_the_episode(station: Station, name: str, why: str) -> None:
    running = killed_and_void(station, name, why)
    assert_kept(station, running)
    station.start(name)
    assert_goes_on(station)


def killed_and_void(station: Station, name: str, why: str) -> Running:
    running, killed, outcome = station.spoilt(lambda: station.kill(name), lambda: station.start(name), why)
    measured(f"{name} killed: the episode is void", outcome.at - killed)
    return running


def test_a_vla_server_that_dies_leaves_its_chunk_and_then_a_hold(station: Station) -> None:
    running = killed_and_void(station, "vla_server", "The VLA server has been silent")
    entries = [entry(step) for step in station.steps(running.episode_id)]
    last = len(entries) - 1 - entries[::-1].index(1)  # the last tick that was answered
    rest = entries[last:]
    held = rest.index(0)  # a tick that came late skips an entry
    assert rest[:held] == sorted(set(rest[:held]))
    assert CHUNK - 2 <= held <= CHUNK
    assert set(rest[held:]) == {0}
    assert HOLD_TICKS - 2 <= len(rest) - held <= HOLD_TICKS
    assert_kept(station, running)
    station.start("vla_server")
    assert_goes_on(station)


def test_an_operator_node_that_dies_voids_and_a_pause_outlives_it(station: Station) -> None:
    running = killed_and_void(station, "operator", "The operator node has been silent")
    assert_kept(station, running)
    station.start("operator")
    assert_goes_on(station)
    station.ear.ask(Pause, topics.OPERATOR_PAUSE, Pause.Request(paused=True))
    station.first_state(time.monotonic(), lambda state: state.paused, "the arm is paused")
    station.kill("operator")
    station.start("operator")
    station.ready()
    restarted = time.monotonic()
    station.wait(lambda: station.ear.states[-1].at > restarted + 1.0, "it has spoken")
    assert all(heard.message.paused for heard in station.states_since(restarted))
    station.ear.ask(Pause, topics.OPERATOR_PAUSE, Pause.Request(paused=False))
    assert_goes_on(station)


def test_a_pause_in_mid_episode_holds_the_arm_and_the_episode_goes_on(station: Station) -> None:
    for _ in station.attempts():
        running = station.running()
        before = pause(station, running)
        episode = station.finished(running)
        assert_same_rows(episode, station.steps(running.episode_id))
        if not episode.voided:
            assert len(episode) > before
            return
        assert station.is_load(station.ended(running).message.reason)


def pause(station: Station, running: Running) -> int:
    """A pause of two seconds, and some ticks after it; how many rows there were before those."""
    name, pressed = running.episode_id, time.monotonic()
    station.ear.ask(Pause, topics.OPERATOR_PAUSE, Pause.Request(paused=True))
    assert_holds(station, pressed, for_s=2.0)
    before = len(station.steps(name))
    station.ear.ask(Pause, topics.OPERATOR_PAUSE, Pause.Request(paused=False))
    station.wait(lambda: station.outcome(name) or station.steps(name)[before + 5 :], "it goes on")
    return before


def test_a_controller_that_dies_leaves_the_arm_holding(station: Station) -> None:
    running = station.running()
    killed = station.kill("controller")
    held = station.first_state(killed, lambda state: state.mode == "holding", "the arm holds")
    measured("controller killed: the arm holds", held.at - killed)
    assert_holds(station, held.at)
    station.start("controller")
    assert_kept(station, running, learnt=False)
    # The learner's order outlives the controller: it gets the half episode, void, or has it done again.
    episode = running.data.result(PATIENCE_S)
    assert_same_rows(episode, station.steps(station.episode_of(running.spec)))
    assert_goes_on(station)


def test_a_learner_that_dies_gets_what_was_done_for_it(station: Station) -> None:
    for _ in station.attempts():
        episode_id, episode = after_the_learners_death(station)
        assert_same_rows(episode, station.steps(episode_id))
        reason = station.outcome(episode_id).message.reason  # type: ignore[union-attr]  # it has ended
        if not reason:
            return
        assert station.is_load(reason)


def after_the_learners_death(station: Station) -> tuple[str, Episode]:
    """A learner is killed in mid-episode; the episode, and what its successor has for the same order."""
    station.detach()
    spec = station.spec()
    learner = station.program(
        "learner", station.records, station.weights, str(station.folder / "learner"), str(spec.seed)
    )
    episode_id = station.wait(lambda: station.episode_of(spec), "it runs")
    station.wait(lambda: station.steps(episode_id)[5:] or station.outcome(episode_id), "it has come to tick 5")
    learner.send(signal.SIGKILL)
    before = len(station.steps(episode_id))
    station.wait(
        lambda: station.steps(episode_id)[before + 10 :] or station.outcome(episode_id), "the arm needs no learner"
    )
    station.wait(learner.has_ended, "the learner is dead")
    began = time.monotonic()
    episode = station.order(spec).result(PATIENCE_S)  # a new learner, in the old one's folder
    measured("learner restarted: it has the episode", time.monotonic() - began)
    newest = station.episode_of(spec)
    first = station.outcome(episode_id)
    assert newest == episode_id or (first is not None and first.message.voided), "what is whole is not done again"
    return newest, episode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_of_the_logger_costs_no_transition(station: Station, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        station.stop("replay_logger")
        station.start("replay_logger", run_dir=str(disk / "run"), disk_reserve_mb=1.0)
        try:
            station.ready()
            running = station.running()
            full = time.monotonic()
            filler = fill_up(disk)
            station.wait(lambda: "disk full" in station.ear.health.missing(["replay_logger"]), "it is told")
            measured("disk full: it is told", time.monotonic() - full)
            station.ear.ask(Label, topics.LABEL, Label.Request(label=Label.Request.FAILURE))
            outcome = station.ended(running)
            assert not outcome.message.voided or station.is_load(outcome.message.reason), "the episode goes on"
            handle = station.give(station.spec())
            waits = station.wait(station.waits_for, "the next one waits")
            assert "disk full" in waits
            handle.cancel_goal_async()
            filler.unlink()
            episode = running.data.result(PATIENCE_S)
            assert episode.voided == outcome.message.voided
            assert_same_rows(episode, station.steps(running.episode_id))
            assert_goes_on(station)
        finally:
            station.stop("replay_logger")
    station.start("replay_logger")


def test_an_emergency_stop_ends_motion_until_it_is_released(station: Station) -> None:
    running, pressed, _ = station.spoilt(lambda: press(station), lambda: release(station), "emergency stop")
    stopped = station.first_state(pressed, lambda state: state.mode == "stopped", "the arm is stopped")
    measured("e-stop: the arm is stopped", stopped.at - pressed)
    assert_holds(station, stopped.at, "stopped")
    assert_kept(station, running)
    next_order = station.order()
    assert "emergency stop" in station.wait(station.waits_for, "nothing begins")
    assert_holds(station, stopped.at, "stopped")
    release(station)
    station.wait(lambda: not station.waits_for(), "released")
    assert len(next_order.result(PATIENCE_S)) > 0
    assert_goes_on(station)


def press(station: Station, service: str = topics.OPERATOR_ESTOP) -> float:
    pressed = time.monotonic()
    assert station.ear.ask(EStop, service, EStop.Request(stop=True)).ok
    return pressed


def release(station: Station) -> None:
    assert station.ear.ask(EStop, topics.OPERATOR_ESTOP, EStop.Request(stop=False)).ok


def test_a_stop_at_the_robot_node_itself_voids_too(station: Station) -> None:
    # The operator node sees it and stands by it, so the release is its business too.
    running, *_ = station.spoilt(lambda: press(station, topics.ROBOT_ESTOP), lambda: release(station), "stop")
    release(station)
    assert_kept(station, running)
    assert_goes_on(station)


def test_a_second_controller_ends_itself_and_disturbs_nobody(station: Station) -> None:
    running = station.running()
    began = time.monotonic()
    second = station.second("controller")
    station.wait(second.has_ended, "it gives up")
    measured("duplicate name: it has given up", time.monotonic() - began)
    assert second.exit_status == 2
    assert any("is running already" in line for line in second.last_lines())
    station.finished(running)
    reason = station.ended(running).message.reason
    assert not reason or station.is_load(reason)
    assert_goes_on(station)


def test_nodes_that_come_late_are_waited_for(station: Station) -> None:
    late = [name for name in NODES if name != "controller"]
    for name in late:
        station.stop(name)
    spec = station.spec()
    order = station.order(spec)
    for name in reversed(late):
        station.wait(lambda: "not running" in station.waits_for(), "the controller says whom it waits for")
        assert not station.episode_of(spec), "nothing begins"
        station.start(name)
    episode_id = station.wait(lambda: station.episode_of(spec), "it begins")
    station.wait(lambda: station.steps(episode_id)[5:] or station.outcome(episode_id), "it runs")
    episode = station.finished(Running(episode_id, spec, order))
    assert_same_rows(episode, station.steps(episode_id))


def test_the_operators_word_counts_until_the_window_closes(station: Station) -> None:
    station.stop("replay_logger")
    station.start("replay_logger", label_window_s=10.0)
    station.ready()
    running = failed_episode(station)
    late = Label.Request(episode_id=running.episode_id, label=Label.Request.SUCCESS)
    assert not station.ear.ask(Label, topics.LABEL, late).ok, "the controller is done with it"
    # The operator node may take its time to discover the logger that was started anew.
    station.wait(lambda: station.ear.ask(Label, topics.OPERATOR_LABEL, late).ok, "it is labelled")
    episode = running.data.result(PATIENCE_S)
    assert episode.success
    assert episode.reward[-1] == 1.0
    answer = station.ear.ask(Label, topics.OPERATOR_LABEL, late)
    assert answer.ok
    assert "bag only" in answer.message
    station.stop("replay_logger")
    station.start("replay_logger")
    assert_goes_on(station)


def failed_episode(station: Station) -> Running:
    """One that ended by the operator's verdict."""
    for _ in station.attempts():
        running = station.running()
        station.ear.ask(Label, topics.LABEL, Label.Request(label=Label.Request.FAILURE))
        outcome = station.ended(running).message
        assert not outcome.success
        if not outcome.voided:
            return running
        assert station.is_load(outcome.reason)


def measured(fault: str, seconds: float) -> None:
    print(f"\nmeasured: {fault} after {1e3 * seconds:.0f} ms")


def assert_holds(station: Station, since: float, mode: str = "holding", for_s: float = 0.5) -> None:
    """The arm comes to rest soon after ``since`` and stays there."""
    resting = station.first_state(since, lambda state: state.mode == mode, f"the arm is {mode}")
    end = resting.at + for_s
    station.wait(lambda: station.ear.states[-1].at > end, "time passes")
    states = [heard.message for heard in station.states_since(resting.at) if heard.at <= end]
    assert {state.mode for state in states} == {mode}
    settled = np.array([_place(state) for state in states[len(states) // 2 :]])
    assert np.ptp(settled, axis=0).max() < 1e-3, "metres"


def _place(state: RobotState) -> tuple[float, float, float]:
    return state.tool_pose.position.x, state.tool_pose.position.y, state.tool_pose.position.z


def assert_kept(station: Station, running: Running, learnt: bool = True) -> None:
    """Every step of a spoilt episode is in its bag, and reaches the learner marked."""
    from pld_ros.recording.bag_reader import BagReader

    steps = station.steps(running.episode_id)
    bag = station.run_dir / "bags" / running.episode_id
    station.wait(bag.exists, f"{bag} is finished")
    with BagReader(bag) as reader:
        recorded = reader.assembled().episode
    assert recorded.voided
    assert_same_rows(recorded, steps)
    if learnt:
        episode = running.data.result(PATIENCE_S)
        assert episode.voided
        assert_same_rows(episode, steps)


def assert_same_rows(episode: Episode, steps: list[PolicyStep]) -> None:
    """What the controller did at each tick is what arrived."""
    acted = [step for step in steps if not step.closing]
    assert len(episode) == len(acted)
    assert episode.action.tobytes() == np.array([step.action for step in acted], np.float32).tobytes()


def assert_goes_on(station: Station) -> None:
    """The same processes do another episode as if nothing had been."""
    station.ready()
    assert not station.next_episode().voided
