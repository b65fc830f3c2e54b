"""The learner's runner before a controller whose answers get lost."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import rclpy
from pld_msgs.action import RunEpisode
from pld_msgs.msg import EpisodeStatus, Health
from pld_msgs.srv import LoadPolicy
from rclpy.action import ActionServer, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.context import Context
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future
from recorded import local_episodes, outcome_of_episode, rows_of
from station import Marching, make_learner

from pld_core.errors import RobotUnavailableError
from pld_core.link import RecordSender
from pld_core.types import EpisodeSpec
from pld_ros import topics
from pld_ros.convert import id_of, spec_msg
from pld_ros.recording.records import outcome_record, spec_of_message, step_record
from pld_ros.runner import connection, ros_runner
from pld_ros.runner.connection import NAMESPACE, UNANSWERED
from pld_ros.runner.ros_runner import REFUSED_IN_A_ROW, RosRunner

BOOT = "b007"
EPISODE = local_episodes(1)[0]
SPEC = EpisodeSpec("peg_insertion", 3, "base")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Mute(Node):
    """Does what it is told, sends what came of it to the learner, and never says that it is done."""

    def __init__(self, context: Context, records: str, spool: Path) -> None:
        super().__init__("controller", namespace=NAMESPACE, context=context)
        self.orders = 0
        self.over = threading.Event()
        self.voided = self.busy = self.unwilling = self.deceives = False
        self.refused = 0
        self._sender = RecordSender(records, spool, "replay_logger")
        self._health = self.create_publisher(Health, topics.HEALTH, topics.HEALTHS)
        self.statuses = self.create_publisher(EpisodeStatus, topics.EPISODE, topics.EPISODES)
        self.statuses.publish(EpisodeStatus())
        self.create_timer(0.05, self._speak)
        self.serves, self.loads, self.lost_answers, self.works = Marching.version, 0, 0, True
        loading = self.create_service(LoadPolicy, topics.LOAD_POLICY, self._load)
        send = loading.send_response
        loading.send_response = lambda *answer: send(*answer) if self.loads > self.lost_answers else None
        group = ReentrantCallbackGroup()
        self.server = ActionServer(
            self, RunEpisode, topics.RUN_EPISODE, self._carry_out, callback_group=group,
            goal_callback=self._accept,  # type: ignore[arg-type]  # rclpy says that it gets the whole request
        )  # fmt: skip

    def _speak(self) -> None:
        self._health.publish(Health(node="controller", ready=True, version=BOOT))
        self._health.publish(Health(node="vla_server", ready=True, version=self.serves))

    def _load(self, request: LoadPolicy.Request, response: LoadPolicy.Response) -> LoadPolicy.Response:
        self.loads += 1
        if self.works or self.loads > self.lost_answers:
            self.serves = response.policy_version = Marching.version
        response.ok = True
        return response

    def _accept(self, goal: RunEpisode.Goal) -> GoalResponse:
        self.refused += self.busy
        return GoalResponse.REJECT if self.busy else GoalResponse.ACCEPT

    def _carry_out(self, goal: ServerGoalHandle) -> RunEpisode.Result:
        self.orders += 1
        name = f"{BOOT}-{self.orders:06d}"
        if self.deceives:  # what was said of an earlier one comes late
            theirs = EpisodeStatus(
                state=EpisodeStatus.DONE, order="another", spec=goal.request.spec, episode_id="theirs"
            )
            self.statuses.publish(theirs)
            time.sleep(0.1)
        if self.unwilling:
            self.statuses.publish(EpisodeStatus(state=EpisodeStatus.IDLE, order=id_of(goal), reason="not today"))
        else:
            self.tell(name, spec_of_message(goal.request.spec))
            self.statuses.publish(
                EpisodeStatus(
                    state=EpisodeStatus.DONE, order=id_of(goal), spec=goal.request.spec, episode_id=name, reason="over"
                )
            )
        self.over.wait()
        goal.succeed()
        return RunEpisode.Result(ok=False, message="much later")

    def tell(self, name: str, spec: EpisodeSpec) -> None:
        first = 1000 * self.orders
        for row in rows_of(EPISODE, name, first):
            self._sender.send(step_record(dataclasses.replace(row, weights_version="")))
        outcome = outcome_of_episode(
            EPISODE, name, first, spec=spec, policy_version=Marching.version, weights_version=""
        )
        self._sender.send(outcome_record(outcome.void("spoilt") if self.voided else outcome))

    def end(self) -> None:
        self.over.set()
        self._sender.close()


@pytest.fixture
def mute(link_addresses: dict[str, str], tmp_path: Path) -> Iterator[Mute]:
    context = Context()
    rclpy.init(context=context)
    node = Mute(context, link_addresses["ros.records_address"], tmp_path / "spool")
    executor = MultiThreadedExecutor(2 + REFUSED_IN_A_ROW, context=context)
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin)
    spinning.start()
    try:
        yield node
    finally:
        node.end()
        executor.shutdown()
        spinning.join()
        node.server.destroy()
        node.destroy_node()
        rclpy.try_shutdown(context=context)


@pytest.fixture
def runner(mute: Mute, link_addresses: dict[str, str], tmp_path: Path) -> Iterator[RosRunner]:
    runner = make_learner(
        link_addresses["ros.records_address"], link_addresses["ros.weights_address"], tmp_path / "learner"
    )
    try:
        until(lambda: runner._station.served_version() != "")
        yield runner
    finally:
        runner.close()


@pytest.mark.parametrize(
    ("serves", "lost", "works", "loads"),
    [(Marching.version, 0, True, 0), ("another", 0, True, 1), ("another", 1, True, 1), ("another", 1, False, 2)],
)
def test_the_server_is_asked_until_its_answer_comes_but_not_for_what_it_serves(
    mute: Mute, runner: RosRunner, monkeypatch: pytest.MonkeyPatch, serves: str, lost: int, works: bool, loads: int
) -> None:
    """works: the request whose answer is lost had its effect; it may itself have been lost."""
    monkeypatch.setattr(connection, "ACCEPT_S", 0.2)
    mute.serves, mute.lost_answers, mute.works = serves, lost, works
    until(lambda: runner._station.served_version() == serves)
    runner._station.load_policy("marching", Marching.version, runner._stopping)
    assert mute.loads == loads
    assert runner._station.served_version() == Marching.version


def test_a_server_that_never_answers_ends_the_wait(
    mute: Mute, runner: RosRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ACCEPT_S", 0.1)
    monkeypatch.setattr(connection, "ANSWER_S", 1.0)
    mute.serves, mute.lost_answers, mute.works = "another", 10**9, False
    until(lambda: runner._station.served_version() == "another")
    with pytest.raises(RobotUnavailableError, match="does not serve marching: no answer"):
        runner._station.load_policy("marching", Marching.version, runner._stopping)


@pytest.mark.parametrize("voided", [False, True])
def test_an_episode_whose_answer_is_lost_is_known_by_its_data(mute: Mute, runner: RosRunner, voided: bool) -> None:
    mute.voided = voided
    episode = next(iter(runner.run([SPEC])))
    assert episode.spec == SPEC
    assert episode.voided == voided
    assert episode.action.tobytes() == EPISODE.action.tobytes()
    assert mute.orders == 1


def test_what_was_spoilt_for_the_same_order_before_is_no_answer(mute: Mute, runner: RosRunner) -> None:
    mute.voided = True
    mute.tell("earlier-000001", SPEC)
    until(lambda: "earlier-000001" in runner._station.inbox._episodes)
    mute.voided = False
    assert not next(iter(runner.run([SPEC]))).voided
    assert mute.orders == 1


def test_what_runs_for_a_learner_that_died_is_waited_for(mute: Mute, runner: RosRunner) -> None:
    status = EpisodeStatus(
        state=EpisodeStatus.RUNNING, episode_id="theirs-000001", spec=spec_msg(SPEC), policy_version=Marching.version
    )
    mute.statuses.publish(status)
    mute.busy = True
    with ThreadPoolExecutor(1) as pool:
        ordered = pool.submit(lambda: next(iter(runner.run([SPEC]))))
        until(lambda: mute.refused > 0)
        status.state = EpisodeStatus.DONE
        mute.statuses.publish(status)
        time.sleep(0.5)  # its data take a while
        mute.busy = False
        mute.tell("theirs-000001", SPEC)
        assert not ordered.result(60).voided
    assert mute.orders == 0


def test_what_ended_for_a_learner_that_died_is_waited_for(mute: Mute, runner: RosRunner) -> None:
    status = EpisodeStatus(
        state=EpisodeStatus.DONE, episode_id="theirs-000001", spec=spec_msg(SPEC), policy_version=Marching.version
    )
    mute.statuses.publish(status)
    until(lambda: runner._station._status.episode_id == "theirs-000001")
    with ThreadPoolExecutor(1) as pool:
        ordered = pool.submit(lambda: next(iter(runner.run([SPEC]))))
        until(lambda: runner._station.inbox.asked_for("theirs-000001"))
        mute.tell("theirs-000001", SPEC)
        assert ordered.result(60).action.tobytes() == EPISODE.action.tobytes()
        assert mute.orders == 0
        next(iter(runner.run([SPEC])))  # asked for once more, it is another one
        assert mute.orders == 1


def test_what_its_predecessor_took_already_is_done_again(
    mute: Mute, runner: RosRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ros_runner, "RESENT_S", 0.1)
    mute.statuses.publish(
        EpisodeStatus(
            state=EpisodeStatus.DONE, episode_id="theirs-000001", spec=spec_msg(SPEC), policy_version=Marching.version
        )
    )
    until(lambda: runner._station._status.episode_id == "theirs-000001")
    next(iter(runner.run([SPEC])))
    assert mute.orders == 1


def test_the_end_of_another_order_is_none_of_ours(mute: Mute, runner: RosRunner) -> None:
    mute.deceives = True
    episode = next(iter(runner.run([SPEC])))
    assert episode.action.tobytes() == EPISODE.action.tobytes()
    assert mute.orders == 1


def test_an_answer_may_come_before_the_client_is_through_with_sending(
    mute: Mute, runner: RosRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine may stop a thread anywhere, here while rclpy registers what it waits for."""
    orders = runner._station._orders
    register = orders.add_future

    def late(future: Future) -> None:
        time.sleep(0.3)
        register(future)

    monkeypatch.setattr(orders, "add_future", late)
    assert not next(iter(runner.run([SPEC]))).voided
    assert mute.orders == 1


def test_a_learner_that_hears_nothing_any_more_says_so(
    mute: Mute, runner: RosRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(_message: EpisodeStatus) -> None:
        raise ValueError("spoilt")

    station = runner._station
    (statuses,) = (each for each in station.node.subscriptions if each.msg_type is EpisodeStatus)
    monkeypatch.setattr(statuses, "callback", spoilt)
    mute.statuses.publish(EpisodeStatus())
    with pytest.raises(RobotUnavailableError, match="hears the station no more: ValueError"):
        next(iter(runner.run([SPEC])))
    with pytest.raises(RobotUnavailableError, match="hears the station no more: ValueError"):
        station.order(runner._goal(SPEC, ""), runner._stopping)


def test_an_order_that_was_given_up_is_not_sent_later(
    mute: Mute, runner: RosRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that sends it is stopped for longer than the learner waits."""
    monkeypatch.setattr(connection, "ACCEPT_S", 0.2)
    awake = threading.Event()
    station = runner._station
    station.meet_controller(runner._stopping)
    stopped = station._spinner.call(lambda: awake.wait(60.0))
    until(stopped.running)
    assert station.order(runner._goal(SPEC, ""), runner._stopping) == ("", UNANSWERED)
    awake.set()
    station._spinner.call(lambda: None).result(60.0)
    next(iter(runner.run([SPEC])))
    assert mute.orders == 1


def test_an_order_that_is_declined_without_an_answer_is_given_again(mute: Mute, runner: RosRunner) -> None:
    mute.unwilling = True
    with pytest.raises(RobotUnavailableError, match="not today"):
        next(iter(runner.run([SPEC])))
    assert mute.orders == REFUSED_IN_A_ROW


def test_nobody_waits_for_nodes_that_have_ended(mute: Mute, runner: RosRunner) -> None:
    """They end while their answer is waited for, which would take minutes."""

    class Ending:
        def check(self) -> None:
            if mute.orders:
                raise RobotUnavailableError("The nodes have ended (exit status 2).")

        def close(self) -> None: ...

    mute.unwilling = True
    runner._graph = Ending()  # type: ignore[assignment]
    with pytest.raises(RobotUnavailableError, match="have ended"):
        next(iter(runner.run([SPEC])))
    assert mute.orders == 1
