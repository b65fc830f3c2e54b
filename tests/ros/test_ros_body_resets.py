"""The controller's eyes and hands: resets, and those that fail."""

from __future__ import annotations

from typing import Any

import pytest
from caught_node import Node, Robot
from pld_msgs.msg import OperatorState
from pld_msgs.srv import Reset

from pld_core.errors import RobotError
from pld_ros import topics
from pld_ros.control import ros_body
from pld_ros.control.ros_body import RosBody


def test_an_episode_begins_with_the_first_state_after_its_reset(node: Node, body: RosBody) -> None:
    robot = Robot(node, tick=10)
    for _ in range(3):
        first = body.reset(0)
        assert first.proprio[0] == robot.tick
        assert first.instruction == "go"
        robot.say()


def test_a_robot_node_that_was_restarted_is_not_taken_for_its_predecessor(node: Node, body: RosBody) -> None:
    Robot(node, tick=10)
    body.reset(0)
    Robot(node, tick=100)
    assert body.reset(0).proprio[0] == 103  # its first reset has the number of the other's


def test_a_robot_that_refuses_to_reset_says_why(node: Node, body: RosBody) -> None:
    with pytest.raises(RobotError, match="nobody is here"):
        body.reset(0)


def test_while_the_operator_pauses_the_arm_is_not_reset(node: Node, body: RosBody) -> None:
    robot = Robot(node, tick=10)
    node.hear(topics.OPERATOR_STATE, OperatorState(paused=True))
    with pytest.raises(RobotError, match="paused before"):
        body.reset(0)
    node.hear(topics.OPERATOR_STATE, OperatorState())

    def paused_meanwhile(request: Reset.Request) -> Reset.Response:
        node.hear(topics.OPERATOR_STATE, OperatorState(paused=True))
        return Reset.Response(ok=True, reset=robot.resets + 1)

    node.on_reset = paused_meanwhile
    with pytest.raises(RobotError, match="paused during it"):
        body.reset(0)


@pytest.mark.parametrize(
    ("said", "why"),
    [({"mode": "fault", "fault": "joint 3 is hot"}, "joint 3 is hot"), ({"mode": "stopped"}, "emergency stop")],
)
def test_a_reset_ends_with_a_fault_or_a_stop(
    node: Node, body: RosBody, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], why: str
) -> None:
    monkeypatch.setattr(ros_body, "RESET_ASK_S", 60.0)
    robot = Robot(node, tick=10)

    def fail(request: Reset.Request) -> Reset.Response:
        robot.extra = said
        robot.say()
        return Reset.Response(ok=True, reset=1)

    node.on_reset = fail
    with pytest.raises(RobotError, match=f"reset failed: .*{why}"):
        body.reset(0)


def test_what_was_wrong_before_a_reset_does_not_end_it(node: Node, body: RosBody) -> None:
    robot = Robot(node, tick=10)
    robot.extra = {"mode": "fault", "fault": "joint 3 is hot"}
    robot.say()
    robot.extra = {}
    body.reset(0)


def test_a_reset_that_fails_without_a_fault_says_why(
    node: Node, body: RosBody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ros_body, "RESET_ASK_S", 0.0)
    Robot(node, tick=10)
    answers = iter([Reset.Response(ok=True, reset=1)] * 3 + [Reset.Response(message="ended by a hold")])
    asked: list[Reset.Request] = []

    def answer(request: Reset.Request) -> Reset.Response:
        asked.append(request)
        return next(answers)

    node.on_reset = answer
    with pytest.raises(RobotError, match="reset failed: ended by a hold"):
        body.reset(7)
    assert all(request == asked[0] for request in asked), "that very one"


def test_a_reset_that_never_ends_is_given_up(node: Node, body: RosBody, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ros_body, "RESET_ASK_S", 0.0)
    monkeypatch.setattr(ros_body, "RESET_TIMEOUT_S", 0.0)
    Robot(node, tick=10)
    node.on_reset = lambda request: Reset.Response(ok=True, reset=1)
    with pytest.raises(RobotError, match="did not finish"):
        body.reset(0)


def test_the_controller_waits_longer_than_any_driver() -> None:
    pytest.importorskip("mujoco")
    from pld_ros.drivers import franka

    assert ros_body.RESET_TIMEOUT_S > franka._HOME_S + franka._SETTLING_S
