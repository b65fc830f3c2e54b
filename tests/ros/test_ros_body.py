"""The controller's eyes and hands: what it commands, what it is paid, and what voids an episode."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from caught_node import PERIOD_NS, Node, Robot, begun, estimate, seen

from pld_core.errors import ContractError, RobotError
from pld_ros import topics
from pld_ros.control import payment, ros_body
from pld_ros.control.obedience import MAX_SKIPPED
from pld_ros.control.pace import Pace
from pld_ros.control.ros_body import RosBody
from pld_ros.convert import time_msg


def test_in_lockstep_what_does_not_come_is_a_fault(node: Node, body: RosBody, monkeypatch: pytest.MonkeyPatch) -> None:
    Robot(node, tick=10)
    first = body.reset(0)
    monkeypatch.setattr(ros_body, "LOCKSTEP_TIMEOUT_S", 0.01)
    monkeypatch.setattr(payment, "LOCKSTEP_TIMEOUT_S", 0.01)
    with pytest.raises(ContractError, match="No new observation"):
        body.observe()
    with pytest.raises(ContractError, match="did not judge"):
        body.judge(first, False)


def test_a_judgement_is_that_of_the_very_observation(node: Node, body: RosBody) -> None:
    robot = Robot(node, tick=10)
    body.reset(0)
    for tick, success in ((robot.tick, True), (robot.tick + 1, False), (robot.tick + 2, True)):
        node.hear(topics.SUCCESS, estimate(tick, success))
    robot.say()
    assert not body.judge(body.observe(), False).success


def test_commands_are_numbered_without_gaps_and_say_what_they_answer(node: Node, body: RosBody) -> None:
    robot = Robot(node, tick=10)
    seen = body.reset(0)
    for _ in range(3):
        body.send(np.zeros(7, np.float32), seen)
    first, *others = [command.sequence for command in node.commands]
    assert others == [first + 1, first + 2]
    assert node.commands[0].header.stamp == time_msg(robot.tick * PERIOD_NS)


def test_in_real_time_an_estimate_that_comes_late_counts_once_and_a_tick_later(node: Node, body: RosBody) -> None:
    node.simulated_time = False
    robot = Robot(node, tick=10)
    body.reset(0)
    first = seen(body, robot)
    assert body.judge(first, False) == ros_body.Judgement()
    node.hear(topics.SUCCESS, estimate(robot.tick, True))
    second = seen(body, robot)
    late = body.judge(second, False)
    assert (late.reward, late.success) == (1.0, True)
    assert body.judge(second, False).reward == 0.0


def test_the_last_tick_waits_for_its_judgement(node: Node, body: RosBody) -> None:
    node.simulated_time = False
    robot = Robot(node, tick=10)
    body.reset(0)
    last = seen(body, robot)
    timer = threading.Timer(0.05, node.hear, (topics.SUCCESS, estimate(robot.tick, True)))
    timer.start()
    assert body.judge(last, True).success
    timer.join()


def test_a_reward_node_that_falls_silent_is_a_fault(node: Node, body: RosBody) -> None:
    node.simulated_time = False
    robot = Robot(node, tick=10)
    body.reset(0)
    for _ in range(10):
        body.judge(seen(body, robot), False)
    with pytest.raises(ContractError, match="reward_age_ms"):
        body.judge(seen(body, robot), False)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"mode": "stopped"}, "emergency stop"),
        ({"mode": "fault", "fault": "joint 3 is hot"}, "joint 3 is hot"),
        ({"refused": 1}, "refused a command"),
        ({"held": 5}, "too late for its period"),
        ({"resets": 7}, "restarted"),
    ],
)
def test_what_the_arm_did_not_carry_out_voids(node: Node, body: RosBody, said: dict[str, Any], why: str) -> None:
    robot = Robot(node, tick=10)
    body.send(np.zeros(7, np.float32), body.reset(0))
    robot.extra = {"held": 4}  # while the first command was on its way
    robot.say()
    body.observe()
    robot.extra = {"held": 4, **said}
    robot.say()
    with pytest.raises(RobotError, match=why):
        body.observe()


@pytest.mark.parametrize(("skipped", "voids"), [(0, False), (MAX_SKIPPED, False), (MAX_SKIPPED + 1, True), (11, True)])
def test_a_controller_that_got_no_processor_voids(node: Node, body: RosBody, skipped: int, voids: bool) -> None:
    """All others went on as ever: their states are of now, and none speaks of it yet."""
    now, robot = begun(node, body)
    body.send(np.zeros(7, np.float32), body.observe())
    now.pass_s(node.period_s * (skipped + 1.1))
    robot.say()
    if voids:
        with pytest.raises(RobotError, match=f"controller itself .* {skipped} ticks were skipped"):
            body.observe()
    else:
        body.observe()


def test_what_was_skipped_before_the_first_command_harms_nobody(node: Node, body: RosBody) -> None:
    now, _ = begun(node, body)
    now.pass_s(node.period_s * 4)
    body.observe()


def test_a_success_is_paid_once_however_often_it_is_seen(node: Node, body: RosBody) -> None:
    node.simulated_time = False
    robot = Robot(node, tick=10)
    body.reset(0)
    for _ in range(3):
        node.hear(topics.SUCCESS, estimate(robot.say(), True))
    judged = body.judge(seen(body, robot), False)
    assert (judged.reward, judged.success) == (1.0, True)


def test_after_the_last_tick_a_later_picture_serves_as_well(node: Node, body: RosBody) -> None:
    node.simulated_time = False
    robot = Robot(node, tick=10)
    body.reset(0)
    last = seen(body, robot)
    node.hear(topics.SUCCESS, estimate(robot.tick + 1, True))
    node.hear(topics.SUCCESS, estimate(robot.tick + 2, True))
    assert body.judge(last, True).reward == 1.0


@pytest.mark.parametrize("captured_ago_s", [0.0, 0.030, 0.130])
def test_the_first_tick_is_in_the_rhythm_of_all(
    node: Node, body: RosBody, monkeypatch: pytest.MonkeyPatch, captured_ago_s: float
) -> None:
    node.simulated_time = False
    now, slept, robot = 1000.0, [], Robot(node, tick=9)
    monkeypatch.setattr(ros_body.time, "time_ns", lambda: robot.tick * PERIOD_NS + round(captured_ago_s * 1e9))
    monkeypatch.setattr(ros_body.time, "monotonic", lambda: now)
    body.pace = Pace(node.period_s, lambda: now + sum(slept), slept.append)
    node.on_reset = robot.reset
    body.begin(body.reset(0))
    since_capture = captured_ago_s + sum(slept)
    assert since_capture % node.period_s == pytest.approx(ros_body.PHASE_S)
    assert sum(slept) <= node.period_s
    assert body.patience_s(1.0) == pytest.approx(ros_body.WAITS_END * node.period_s)
    slept.append(node.period_s)
    assert body.patience_s(1.0) == 0.0


def test_the_first_tick_is_decided_on_the_newest_observation(
    node: Node, body: RosBody, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.simulated_time = False
    robot = Robot(node, tick=9)
    node.on_reset = robot.reset
    first = body.reset(0)
    robot.say()  # the policy took its time, and the arm held
    node.hear(topics.SUCCESS, estimate(robot.tick, True))
    monkeypatch.setattr(ros_body.time, "time_ns", lambda: robot.tick * PERIOD_NS)
    assert body.begin(first).stamp_ns == {name: stamp + PERIOD_NS for name, stamp in first.stamp_ns.items()}
    robot.say()
    node.hear(topics.SUCCESS, estimate(robot.tick, False))
    assert not body.judge(body.observe(), False).success, "what was judged before the first action is not its effect"


@pytest.mark.parametrize("jump_ms", [10_000, -10_000, -500])
def test_a_clock_that_is_set_voids_the_episode_and_the_next_one_runs(
    node: Node, body: RosBody, monkeypatch: pytest.MonkeyPatch, jump_ms: int
) -> None:
    ticks, ahead, robot = jump_ms * 10**6 // PERIOD_NS, 0, Robot(node, tick=1000)
    node.simulated_time = False
    body._max_age_ms = dict.fromkeys(body._max_age_ms, 150.0)
    monkeypatch.setattr(ros_body.time, "time_ns", lambda: (robot.tick + ahead) * PERIOD_NS)
    body.begin(body.reset(0))
    robot.say()
    body.observe()
    ahead = ticks
    with pytest.raises(ContractError, match="too old"):
        body.observe()
    robot.tick, ahead = robot.tick + ticks, 0
    if jump_ms < 0:  # nothing that has the new time follows what had the old one
        for _ in range(3):
            robot.say()
            with pytest.raises(ContractError, match=r"too old|There is no complete observation"):
                body.observe()
        for _ in range(10 if jump_ms > -1000 else 0):  # the old samples stay in sight until the clock has passed them
            robot.say()
    body.begin(body.reset(1))
    robot.say()
    assert max(body.observe().stamp_ns.values()) == robot.tick * PERIOD_NS
