"""The controller's eyes and hands: what the operator says and how long it waits for the operator."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from caught_node import Node, Robot, begun, estimate, pause, seen
from pld_msgs.msg import DeltaCommand, OperatorState, SuccessEstimate
from pld_msgs.srv import Label

from pld_core.errors import RobotError
from pld_ros import topics
from pld_ros.control import ros_body
from pld_ros.control.ros_body import RosBody
from pld_ros.convert import floats


def test_verdict_and_take_over_hold_until_the_next_episode(node: Node, body: RosBody) -> None:
    Robot(node, tick=10)
    node.hear(topics.OPERATOR_STATE, OperatorState(taking_over=True))
    node.hear(topics.INTERVENTION, DeltaCommand(action=floats(np.ones(7))))
    body.label(Label.Request.FAILURE)
    orders = body.orders()
    assert (orders.verdict, orders.stopped) == ("failure", False)
    assert orders.intervention is not None
    body.reset(0)
    assert body.orders().verdict == "failure", "said after the episode had begun"
    body.forget_verdict()
    assert body.orders() == ros_body.Orders()


def test_a_pause_waits_for_its_end_or_for_the_emergency_stop(node: Node, body: RosBody) -> None:
    told: list[bool] = []

    def on_pause(paused: bool) -> None:
        told.append(paused)
        if paused:
            threading.Timer(0.02, node.hear, (topics.OPERATOR_STATE, end)).start()

    body.on_pause = on_pause
    for end in (OperatorState(), OperatorState(paused=True, estopped=True)):
        node.hear(topics.OPERATOR_STATE, OperatorState(paused=True))
        assert body.orders().stopped == end.estopped
    assert told == [True, False] * 2


def test_an_arm_that_held_before_a_command_could_come_is_forgiven(node: Node, body: RosBody) -> None:
    """After a pause: it was held, and the controller looks before it commands."""
    _, robot = begun(node, body)
    robot.say()
    body.send(np.zeros(7, np.float32), body.observe())
    pause(node, body, lambda: None)
    assert body.orders().waited
    for held in (3, 5):
        robot.extra = {"held": held}
        robot.say()
        body.observe()
    body.send(np.zeros(7, np.float32), body.observe())
    robot.extra = {"held": 6}
    robot.say()
    body.observe()  # of before the command was there
    robot.extra = {"held": 7}
    robot.say()
    with pytest.raises(RobotError, match="too late for its period"):
        body.observe()


def test_only_a_count_that_grows_is_a_start(node: Node, body: RosBody) -> None:
    for count, starts in ((3, 0), (3, 0), (4, 1), (0, 1), (1, 2)):
        node.hear(topics.OPERATOR_STATE, OperatorState(starts=count))
        assert body.starts == starts


def test_a_cancelled_order_ends_a_pause_too(node: Node, body: RosBody) -> None:
    node.hear(topics.OPERATOR_STATE, OperatorState(paused=True))
    body.is_cancelled = lambda: True
    assert body.orders().cancelled


def test_a_cancelled_order_does_not_wait_for_the_operator(node: Node, body: RosBody) -> None:
    node.simulated_time = False
    pause(node, body, lambda: None)
    body.is_cancelled = lambda: True
    assert not body.orders().waited, "or the episode would go on to the next tick"


def test_a_verdict_given_in_a_pause_counts(node: Node, body: RosBody) -> None:
    node.simulated_time = False
    Robot(node, tick=10)
    pause(node, body, lambda: body.label(Label.Request.VOID))
    orders = body.orders()
    assert (orders.verdict, orders.waited) == ("void", True)


def test_where_time_stands_still_a_pause_makes_nothing_old(node: Node, body: RosBody) -> None:
    pause(node, body, lambda: None)
    assert not body.orders().waited


def test_what_was_earned_before_a_pause_is_kept_and_what_was_seen_in_it_is_not(node: Node, body: RosBody) -> None:
    node.simulated_time = False
    robot = Robot(node, tick=10)
    body.reset(0)
    before = seen(body, robot)
    body._last = max(before.stamp_ns.values())
    node.hear(topics.SUCCESS, SuccessEstimate(header=estimate(robot.tick, False).header, reward=0.5))
    pause(node, body, lambda: node.hear(topics.SUCCESS, estimate(robot.say(), True)))
    assert body.orders().waited
    after = body.judge(seen(body, robot), False)
    assert (after.reward, after.success) == (0.5, False)
