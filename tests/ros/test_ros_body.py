"""The controller's eyes and hands on a node that is none: messages are handed in, commands and calls caught."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pld_msgs.msg import DeltaCommand, OperatorState, RobotState, SuccessEstimate
from pld_msgs.srv import Label, Reset

from pld_core.errors import ContractError, RobotError
from pld_ros import topics
from pld_ros.control import payment, ros_body
from pld_ros.control.obedience import MAX_SKIPPED
from pld_ros.control.pace import Pace
from pld_ros.control.ros_body import RosBody
from pld_ros.convert import floats, time_msg
from pld_ros.node import Rates

PERIOD_NS = 50_000_000


class Node:
    """Answers what RosBody asks of a node; a station without cameras, in lockstep."""

    def __init__(self) -> None:
        self.station = SimpleNamespace(cameras={}, is_simulated=True, frame="base")
        self.task_config = SimpleNamespace(instruction="go")
        self.simulated_time, self.period_s = True, PERIOD_NS / 1e9
        self.rates, self.inputs = Rates(), []
        self.heard: dict[str, list[Any]] = {}
        self.commands: list[DeltaCommand] = []
        self.on_reset: Any = lambda request: Reset.Response(ok=False, message="nobody is here")

    def setting(self, name: str, default: Any) -> Any:
        return 60_000.0 if name == "max_age_ms" else default  # nothing here grows old by itself

    def create_subscription(self, kind: Any, topic: str, callback: Any, qos: Any) -> None:
        self.heard.setdefault(topic, []).append(callback)

    def create_publisher(self, kind: Any, topic: str, qos: Any) -> Any:
        return SimpleNamespace(publish=self.commands.append)

    def create_client(self, kind: Any, topic: str) -> Any:
        def call_async(request: Any) -> Any:
            answer = self.on_reset(request)
            return SimpleNamespace(add_done_callback=lambda done: done(None), result=lambda: answer)

        return SimpleNamespace(wait_for_service=lambda timeout_sec: True, call_async=call_async)

    def hear(self, topic: str, message: Any) -> None:
        for callback in self.heard[topic]:
            callback(message)


class Robot:
    """A robot node that was just started; its time goes on where it is told to."""

    def __init__(self, node: Node, tick: int) -> None:
        self.node, self.tick, self.resets = node, tick, 0
        self.extra: dict[str, Any] = {}  # other fields of its states
        node.on_reset = self.reset
        self.say()

    def say(self) -> int:
        self.tick += 1
        state = RobotState(**{"resets": self.resets, "proprio": floats(np.full(3, self.tick)), **self.extra})
        state.header.stamp = time_msg(self.tick * PERIOD_NS)
        self.node.hear(topics.ROBOT_STATE, state)
        return self.tick

    def reset(self, request: Reset.Request) -> Reset.Response:
        number = self.resets + 1
        self.say()  # a state from before the reset is still on its way

        def finish() -> None:
            self.resets = number
            self.say()

        threading.Timer(0.02, finish).start()
        return Reset.Response(ok=True, reset=number)


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def body(node: Node) -> RosBody:
    made = RosBody(node)  # type: ignore[arg-type]
    made.take_command()
    return made


def estimate(tick: int, success: bool) -> SuccessEstimate:
    message = SuccessEstimate(success=success, reward=float(success))
    message.header.stamp = time_msg(tick * PERIOD_NS)
    return message


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


class Now:
    """Monotonic seconds that pass when somebody sleeps, or a test says so."""

    def __init__(self) -> None:
        self.s = time.monotonic()

    def __call__(self) -> float:
        return self.s

    def pass_s(self, seconds: float) -> None:
        self.s += seconds


def begun(node: Node, body: RosBody) -> tuple[Now, Robot]:
    """A real station's episode, at its first tick."""
    node.simulated_time, node.station.is_simulated = False, False
    now, robot = Now(), Robot(node, tick=time.time_ns() // PERIOD_NS - 40)  # of the future is none
    body.reset(0)
    body.pace = Pace(node.period_s, now, now.pass_s)
    body.pace.start(now())
    return now, robot


def pause(node: Node, body: RosBody, meanwhile: Callable[[], Any]) -> None:
    """The operator pauses; something happens, and it goes on."""

    def on_pause(paused: bool) -> None:
        if paused:
            meanwhile()
            node.hear(topics.OPERATOR_STATE, OperatorState())

    node.hear(topics.OPERATOR_STATE, OperatorState(paused=True))
    body.on_pause = on_pause


def seen(body: RosBody, robot: Robot) -> Any:
    robot.say()
    stamps = body.buffer.newest(-1)
    assert stamps is not None
    return body._observation(stamps)
