"""The reward node: what it makes of a model's verdicts, and of an operator who pauses."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest
import rclpy
from pld_msgs.msg import OperatorState, RobotState, SimulatorState, SuccessEstimate

from pld_core.rewards.debounce import Debounce, Latch
from pld_core.types import TimeStep
from pld_ros.nodes.reward import RewardNode

with warnings.catch_warnings():  # of lark, which rclpy imports with the first node
    warnings.simplefilter("ignore", DeprecationWarning)
    import rosidl_generator_py  # noqa: F401


class Certain:
    """Sees success in every picture, and believes what it saw twice."""

    sees_for_itself = True

    def __init__(self) -> None:
        self.asked = 0
        self._latch = Latch(Debounce(2, 3))

    def reset(self) -> None:
        self._latch.reset()

    def clear_latch(self) -> None:
        self._latch.reset()

    def score(self, step: TimeStep) -> tuple[float, bool]:
        self.asked += 1
        success = self._latch.see(True)
        return float(success), success


@pytest.fixture
def model() -> Certain:
    return Certain()


@pytest.fixture
def node(model: Certain, monkeypatch: pytest.MonkeyPatch) -> Iterator[RewardNode]:
    module = ModuleType("certain_reward")
    module.make = lambda: model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    rclpy.init(args=["--ros-args", "-p", "reward:=certain_reward:make"])
    made = RewardNode()
    monkeypatch.setattr(made, "_observation", lambda stamps: None)
    yield made
    made.destroy_node()
    rclpy.try_shutdown()


def judged(node: RewardNode) -> SuccessEstimate:
    answer = SuccessEstimate()
    node._score(answer, {}, None)
    return answer


def test_nothing_is_a_success_while_the_operator_pauses(node: RewardNode, model: Certain) -> None:
    assert not judged(node).success
    node._on_operator(OperatorState(paused=True))
    for _ in range(3):
        answer = judged(node)
        assert (answer.success, answer.reward, answer.probability) == (False, 0.0, 0.0)
    assert model.asked == 1
    node._on_operator(OperatorState(paused=False))
    assert [judged(node).success for _ in range(2)] == [False, True], "it counts anew"


def test_a_pause_between_two_pictures_counts_too(node: RewardNode) -> None:
    assert not judged(node).success
    node._on_operator(OperatorState(paused=True))
    node._on_operator(OperatorState(paused=False))
    assert [judged(node).success for _ in range(2)] == [False, True]


def test_what_a_simulator_said_before_it_was_restarted_judges_nothing() -> None:
    rclpy.init(args=["--ros-args", "-p", "reward:=binary", "-p", "robot:=fr3_sim", "-p", "task:=peg_insertion"])
    node = RewardNode()
    try:
        for second, resets in (*((s, 1) for s in range(100, 200)), (50, 0), (51, 2)):  # its clock began anew
            word, state = SimulatorState(), RobotState(resets=resets)
            word.header.stamp.sec = state.header.stamp.sec = second
            node._on_word(word)
            node._on_state(state)
            stamps = node._next()
            assert stamps is not None
            node._last = max(stamps.values())
            assert node._last == second * 1_000_000_000
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def test_on_a_real_arm_without_a_model_every_state_is_worth_nothing() -> None:
    rclpy.init(args=["--ros-args", "-p", "reward:=binary", "-p", "robot:=franka_fr3"])
    node = RewardNode()
    said: list[SuccessEstimate] = []
    node._answers = SimpleNamespace(publish=said.append)  # type: ignore[assignment]
    try:
        for tick in (1, 2, 3):
            state = RobotState(resets=1)
            state.header.stamp.sec = tick
            node._on_state(state)
            stamps = node._next()
            assert stamps is not None
            node._last = max(stamps.values())
            node._judge(stamps, node._word[node._last], tick == 1)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    assert [answer.header.stamp.sec for answer in said] == [1, 2, 3]
    assert not any(answer.reward or answer.success or answer.terminated for answer in said)
