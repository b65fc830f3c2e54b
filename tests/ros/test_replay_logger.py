"""The replay logger over real DDS: what it hears is what the learner and the bag get, bit for bit."""

from __future__ import annotations

import dataclasses
import os
import time

import numpy as np
import pytest
import rclpy
from bagged import STEP, write_episode_bag
from logger_rig import LoggerProcess, Rig, wait_until
from pld_msgs.msg import PolicyStep
from pld_msgs.srv import Label
from rclpy.node import Node
from recorded import assert_same, local_episodes, outcome_of_episode, rows_of
from test_bags import fill_up, small_disk

from pld_core.errors import ConfigError
from pld_ros.convert import vector
from pld_ros.nodes import replay_logger as node_module
from pld_ros.nodes.bag_player import BagPlayer
from pld_ros.recording.bag_reader import BagReader, read_episode
from pld_ros.recording.logbook import LEDGER
from pld_ros.spinner import Spinner


@pytest.fixture(scope="module")
def episodes():
    found = local_episodes(2)
    assert {episode.success for episode in found} == {True, False}
    return found


@pytest.fixture
def make_rig(tmp_path):
    made = []

    def make(run_dir=tmp_path / "run", **parameters) -> Rig:
        made.append(Rig(tmp_path, run_dir, **parameters))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


def without_images(episode):
    return dataclasses.replace(episode, spec=dataclasses.replace(episode.spec, record_images=False), images={})


def test_learner_and_bag_get_every_bit(make_rig, episodes):
    rig = make_rig()
    logger, first = rig.logger(), 1
    wanted = [*episodes, without_images(episodes[0])]
    told = [*episodes, dataclasses.replace(episodes[0], spec=wanted[2].spec)]
    for k, episode in enumerate(told):
        rig.play(episode, f"e{k}", first)
        first += len(episode) + 1
    for k, episode in enumerate(wanted):
        assert_same(rig.learner.episode(f"e{k}").episode, episode)
        assert_same(read_episode(rig.bag(f"e{k}")), episode)
    steps = [record for record in rig.learner.records if record["kind"] == "step"]
    assert [record["sequence"] for record in steps] == list(range(1, first))
    assert not steps[-1]["images"], "the learner wants none of the last episode"
    with BagReader(rig.bag("e2")) as bag:
        assert len([1 for topic, *_ in bag.raw() if topic == "/camera/top/image"]) >= len(told[2]) + 1
    found = wait_until(lambda: (d := logger.diagnostics())["link_pending"] == 0 and d, "all acknowledged")
    assert (found["steps"], found["steps_missed"], found["frames_missed"]) == (first - 1, 0, 0)
    assert (found["episodes"], found["voided"], found["link_acknowledged"]) == (3, 0, first - 1 + 3)
    assert found["frames_top"] >= len(episodes[0]) + 1
    assert found["bytes_written"] > 10_000


def test_late_frames_are_waited_for_and_lost_ones_void(make_rig, episodes):
    rig = make_rig()
    logger, episode = rig.logger(), episodes[0]
    rows = rows_of(episode, "late")
    rig.station.begin(outcome_of_episode(episode, "late"))
    for row in rows:
        rig.station.tell(row)
    time.sleep(0.1)
    for row in rows:
        rig.station.see(row)
        time.sleep(0.002)
    rig.station.end(outcome_of_episode(episode, "late"))
    assert_same(rig.learner.episode("late").episode, episode)
    assert logger.diagnostics()["frames_missed"] == 0
    lost = dataclasses.replace(episode, images={"top": episode.images["top"].copy()})
    rows, first = rows_of(lost, "lost", 1000), 1000
    rows[3] = dataclasses.replace(rows[3], images={})
    rig.station.begin(outcome_of_episode(lost, "lost", first))
    for row in rows:
        rig.station.see(row)
        rig.station.tell(row)
        time.sleep(0.002)
    rig.station.end(outcome_of_episode(lost, "lost", first))
    found = rig.learner.episode("lost")
    assert found.episode.voided
    assert "1 of its frames never came" in found.report.reason
    assert read_episode(rig.bag("lost")).voided
    assert logger.diagnostics()["frames_missed"] == 1
    assert logger.diagnostics()["voided"] == 1


def test_a_lost_step_voids_at_once(make_rig, episodes):
    rig = make_rig()
    logger, episode = rig.logger(), without_images(episodes[0])
    rig.station.begin(outcome_of_episode(episode, "gap"))
    for row in rows_of(episodes[0], "gap"):
        rig.station.see(row)
        if row.tick != 4:
            rig.station.tell(row)
        time.sleep(0.002)
    rig.station.end(outcome_of_episode(episode, "gap"))
    found = rig.learner.episode("gap")
    assert found.episode.voided
    assert len(found.episode) == 4
    assert "1 of its" in found.report.reason
    assert logger.diagnostics()["steps_missed"] == 1


def test_a_controller_s_steps_are_a_sign_of_life(make_rig, episodes):
    rig = make_rig()
    logger = rig.logger()
    rig.station.begin(outcome_of_episode(episodes[0], "e"))
    logger._watch._heard.clear()
    logger._controller_at = -1e9
    (row, *_) = rows_of(episodes[0], "e")
    rig.station.tell(row)
    wait_until(lambda: logger._controller_at > 0, "the step is heard")


def test_a_controller_that_falls_silent_voids_the_episode(make_rig, episodes, monkeypatch):
    monkeypatch.setattr(node_module, "CONTROLLER_LOST_S", 0.5)
    rig = make_rig()
    rig.logger()
    rig.station.begin(outcome_of_episode(episodes[0], "e"))
    for row in rows_of(episodes[0], "e")[:5]:
        rig.station.see(row)
        rig.station.tell(row)
        rig.station.alive()
    found = rig.learner.episode("e")
    assert found.episode.voided
    assert found.report.reason == "controller lost"
    assert found.episode.spec == episodes[0].spec
    assert found.episode.action.tobytes() == episodes[0].action[:5].tobytes()
    bagged = read_episode(rig.bag("e"))
    assert_same(bagged, found.episode)


def test_a_fault_the_controller_reports_is_kept_and_marked(make_rig, episodes):
    rig = make_rig()
    rig.logger()
    outcome = outcome_of_episode(episodes[0], "e", ticks=3, last_sequence=3).void("no frame of top for 200 ms")
    rig.station.begin(outcome)
    for row in rows_of(episodes[0], "e")[:3]:
        rig.station.see(row)
        rig.station.tell(row)
    rig.station.end(outcome)
    found = rig.learner.episode("e")
    assert found.episode.voided
    assert found.report.reason == outcome.reason
    assert len(found.episode) == 3
    assert np.isnan(found.episode.proprio[3]).all()
    assert_same(read_episode(rig.bag("e")), found.episode)


def test_verdicts_after_the_end(make_rig, episodes):
    rig = make_rig(label_window_s=30.0)
    logger = rig.logger()
    failed = next(episode for episode in episodes if not episode.success)
    assert rig.station.label(Label.Request.SUCCESS) == (False, "no episode has ended yet")
    rig.station.begin(outcome_of_episode(failed, "e"))
    wait_until(lambda: logger.logbook.running == ["e"], "the episode runs")
    ok, message = rig.station.label(Label.Request.SUCCESS, "e")
    assert not ok
    assert "running" in message
    rig.play(failed, "e")
    bag = rig.bag("e")
    assert "e" not in rig.learner.done, "held back for the verdict"
    assert rig.station.label(Label.Request.SUCCESS) == (True, "episode e counts as success")
    found = rig.learner.episode("e").episode
    assert found.success
    assert found.reward[-1] == 1.0
    assert_same(read_episode(bag), found)
    assert_same(read_episode(bag, as_learned=True), found)
    ok, message = rig.station.label(Label.Request.VOID, "e")
    assert ok
    assert "bag only" in message
    assert read_episode(bag).voided
    assert_same(read_episode(bag, as_learned=True), found)
    assert rig.station.label(Label.Request.VOID, "x")[0] is False
    assert "valid: 0" in rig.station.label(9, "e")[1]


def test_without_bags_the_learner_is_fed(make_rig, episodes):
    rig = make_rig(bags=False)
    rig.logger()
    rig.play(episodes[0], "e")
    assert_same(rig.learner.episode("e").episode, episodes[0])
    assert not (rig.run_dir / "bags").exists()
    assert rig.station.label(Label.Request.VOID, "e")[0] is False


def test_a_killed_logger_loses_nothing_of_the_learners(make_rig, episodes):
    rig = make_rig()
    killed = LoggerProcess(rig)
    rig.play(episodes[0], "whole")
    assert_same(rig.learner.episode("whole").episode, episodes[0])
    long = next(episode for episode in episodes if len(episode) == 30)
    wanted, first = without_images(long), 1000
    outcome = outcome_of_episode(wanted, "cut", first)
    rows = rows_of(long, "cut", first)
    rig.station.begin(outcome)
    for row in rows[:25]:
        rig.station.see(row)
        rig.station.tell(row)
        time.sleep(0.05)  # chunks of a bag are closed every second
    killed.kill()
    for row in rows[25:]:
        rig.station.tell(row)  # nobody listens, but the topic is latched
    rig.station.end(outcome)
    restarted = LoggerProcess(rig)
    try:
        assert_same(rig.learner.episode("cut").episode, wanted)
        kinds = [record["episode_id"] for record in rig.learner.records if record["kind"] == "episode"]
        assert kinds == ["whole", "cut"], "what was finished is not sent twice"
        with BagReader(rig.run_dir / "bags" / "cut") as repaired:
            assert repaired.custom["interrupted"]
            episode = repaired.assembled().episode
        assert episode.voided
        kept = len(episode) - 1
        assert kept > 0
        assert episode.action[:kept].tobytes() == long.action[:kept].tobytes()
        assert_same(read_episode(rig.bag("cut-2")), wanted)
        assert len((rig.run_dir / LEDGER).read_text().splitlines()) == 2
    finally:
        assert restarted.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_reported_survived_and_left_behind(make_rig, episodes, tmp_path):
    with small_disk(tmp_path / "disk", "4m") as disk:
        rig = make_rig(run_dir=disk / "run")
        logger = rig.logger()
        try:
            rig.station.begin(outcome_of_episode(episodes[0], "e"))
            rows = rows_of(episodes[0], "e")
            for row in rows[:5]:
                rig.station.see(row)
                rig.station.tell(row)
            wait_until(lambda: logger.diagnostics()["steps"] == 5, "heard")
            filler = fill_up(disk)
            wait_until(lambda: "disk full" in rig.station.missing(), "it is not ready")
            for row in rows[5:]:
                rig.station.see(row)
                rig.station.tell(row)
                time.sleep(0.002)
            rig.station.end(outcome_of_episode(episodes[0], "e"))
            wait_until(lambda: not logger.logbook.running, "the episode is over")
            filler.unlink()
            rig.station.wait_for_logger(ready=True)
            assert_same(rig.learner.episode("e").episode, episodes[0])
            assert read_episode(rig.bag("e")).spec == episodes[0].spec
            rig.play(episodes[1], "after", first=500)
            assert_same(rig.learner.episode("after").episode, episodes[1])
            assert_same(read_episode(rig.bag("after")), episodes[1])
        finally:
            rig.close()


def test_a_bag_is_played_for_viewers_but_never_into_a_running_graph(tmp_path, episodes, domain):
    bag = write_episode_bag(tmp_path / "bags", episodes[0], "e0")
    rclpy.init(args=["--ros-args", "-p", f"bag:={bag}", "-p", "rate:=20.0"])
    try:
        viewer, player = Node("viewer"), BagPlayer()
        seen: list[PolicyStep] = []
        viewer.create_subscription(PolicyStep, STEP, seen.append, 1000)
        spinner = Spinner(viewer)
        try:
            player.work()
            wait_until(lambda: len(seen) == len(episodes[0]) + 1, "all steps are seen")
            assert vector(seen[3].state).tobytes() == episodes[0].state[3].tobytes()
            with pytest.raises(ConfigError, match="a graph is running"):
                player.work()
        finally:
            spinner.close()
            player.destroy_node()
            viewer.destroy_node()
    finally:
        rclpy.try_shutdown()
