"""The operator's wishes reach robot, controller and replay logger; whoever does not answer is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from operator_graph import Graph, wait_until
from pld_msgs.msg import EpisodeStatus, Health, OperatorState
from pld_msgs.srv import EStop, Label, Pause, Reset
from std_srvs.srv import Trigger

from pld_ros import topics
from pld_ros.nodes import operator as operator_module

ALL = (topics.ROBOT_RESET, topics.ROBOT_ESTOP, topics.LABEL, topics.LATE_LABEL)
SUCCESS, FAILURE = Label.Request.SUCCESS, Label.Request.FAILURE


@pytest.fixture
def make_graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Graph]]:
    monkeypatch.setattr(operator_module, "ANSWER_S", 0.5)
    monkeypatch.setattr(operator_module, "RELEASE_S", 0.7)
    made: list[Graph] = []

    def make(serving: tuple[str, ...] = ALL, frozen: tuple[str, ...] = ()) -> Graph:
        made.append(Graph(serving, frozen))
        return made[-1]

    yield make
    for graph in made:
        graph.close()


@pytest.fixture
def graph(make_graph: Callable[..., Graph]) -> Graph:
    return make_graph()


def trigger(graph: Graph, name: str) -> tuple[bool, str]:
    answer = graph.call(Trigger, name, Trigger.Request())
    return answer.success, answer.message


def estop(graph: Graph, stop: bool) -> tuple[bool, str]:
    answer = graph.call(EStop, topics.OPERATOR_ESTOP, EStop.Request(stop=stop))
    return answer.ok, answer.message


def test_reset_is_forwarded_with_its_seed(graph):
    answer = graph.call(Reset, topics.OPERATOR_RESET, Reset.Request(seed=7))
    assert (answer.ok, answer.reset, answer.message) == (True, 1, "Reset 1 has begun.")
    assert [request.seed for request in graph.others.asked_of(topics.ROBOT_RESET)] == [7]


def test_reset_waits_for_the_verdict_while_a_controller_lives(graph):
    graph.tell_episode(EpisodeStatus.RUNNING)
    graph.others.health.publish(Health(node="controller", ready=True))
    wait_until(lambda: graph.operator.health_watch.silent_s("controller") < 1.0, "the controller's health")
    answer = graph.call(Reset, topics.OPERATOR_RESET, Reset.Request())
    assert not answer.ok
    assert "e-1 is running" in answer.message
    assert not graph.others.asked


def test_reset_is_possible_when_the_controller_died_in_mid_episode(graph):
    graph.tell_episode(EpisodeStatus.RUNNING)
    assert graph.call(Reset, topics.OPERATOR_RESET, Reset.Request()).ok


def test_start_counts(graph):
    done, message = trigger(graph, topics.OPERATOR_START)
    assert not done
    assert "listens" in message
    graph.listened()
    assert trigger(graph, topics.OPERATOR_START) == (
        True,
        "The scene is ready (start 1); no episode is waiting for it now.",
    )
    graph.tell_episode(EpisodeStatus.WAITING, "")
    assert trigger(graph, topics.OPERATOR_START) == (True, "The waiting episode may begin (start 2).")
    assert graph.state(lambda s: s.starts == 2, "two starts").starts == 2


@pytest.mark.parametrize(("name", "label"), [(topics.OPERATOR_SUCCESS, SUCCESS), (topics.OPERATOR_FAIL, FAILURE)])
def test_verdict_on_the_running_episode_goes_to_the_controller(graph, name, label):
    graph.tell_episode(EpisodeStatus.RUNNING)
    done, message = trigger(graph, name)
    assert done
    assert message.startswith("Running episode e-1")
    assert graph.others.asked == [(topics.LABEL, Label.Request(episode_id="e-1", label=label))]


def test_verdict_after_the_end_goes_to_the_replay_logger(graph):
    graph.tell_episode(EpisodeStatus.DONE, "e-1")
    graph.tell_episode(EpisodeStatus.WAITING, "")
    done, message = trigger(graph, topics.OPERATOR_FAIL)
    assert done
    assert message.startswith("Recorded episode e-1: failure")
    assert graph.others.asked == [(topics.LATE_LABEL, Label.Request(episode_id="e-1", label=FAILURE))]


def test_verdict_that_comes_as_the_episode_ends_is_not_lost(graph):
    graph.others.accepts[topics.LABEL] = False
    graph.tell_episode(EpisodeStatus.RUNNING)
    assert trigger(graph, topics.OPERATOR_SUCCESS)[0]
    assert [name for name, _ in graph.others.asked] == [topics.LABEL, topics.LATE_LABEL]
    assert {request.episode_id for _, request in graph.others.asked} == {"e-1"}


def test_label_of_an_older_episode_leaves_the_running_one_alone(graph):
    graph.tell_episode(EpisodeStatus.RUNNING, "e-9")
    assert graph.call(Label, topics.OPERATOR_LABEL, Label.Request(episode_id="e-2", label=Label.Request.VOID)).ok
    assert graph.others.asked == [(topics.LATE_LABEL, Label.Request(episode_id="e-2", label=Label.Request.VOID))]


def test_nobody_takes_the_verdict(graph):
    graph.others.accepts.update({topics.LABEL: False, topics.LATE_LABEL: False})
    graph.tell_episode(EpisodeStatus.RUNNING)
    assert trigger(graph, topics.OPERATOR_SUCCESS) == (False, "Not labelled: not this one; not this one.")


def test_labels_that_mean_nothing_are_refused(graph):
    assert trigger(graph, topics.OPERATOR_SUCCESS) == (False, "No episode has run yet; there is nothing to label.")
    answer = graph.call(Label, topics.OPERATOR_LABEL, Label.Request(label=9))
    assert (answer.ok, answer.message) == (False, "label is 9; valid: 0 success, 1 failure, 2 void.")
    assert not graph.others.asked


def test_pause_and_go_on(graph):
    assert graph.call(Pause, topics.OPERATOR_PAUSE, Pause.Request(paused=True)).ok
    graph.state(lambda s: s.paused, "paused")
    assert graph.call(Pause, topics.OPERATOR_PAUSE, Pause.Request(paused=False)).message == "Goes on."
    graph.state(lambda s: not s.paused, "going on")


def test_estop_stops_until_released(graph):
    graph.tell_robot("moving")
    assert estop(graph, True) == (True, "The arm is stopped; it stays so until the e-stop is released.")
    graph.state(lambda s: s.estopped, "e-stop")
    assert trigger(graph, topics.OPERATOR_START) == (False, "The e-stop is pressed; release it first.")
    answer = graph.call(Pause, topics.OPERATOR_PAUSE, Pause.Request(paused=False))
    assert answer.message == "Goes on. The e-stop is still pressed."
    assert graph.operator.diagnostics()["estopped"]
    assert estop(graph, False) == (True, "Released.")
    graph.state(lambda s: not s.estopped, "release")
    assert [request.stop for request in graph.others.asked_of(topics.ROBOT_ESTOP)] == [True, False]


def test_estop_holds_though_no_robot_node_runs(make_graph):
    graph = make_graph(serving=(topics.LABEL,))
    done, message = estop(graph, True)
    assert not done
    assert "the robot node is not running" in message
    assert "emergency button" in message
    graph.state(lambda s: s.estopped, "e-stop")
    done, message = estop(graph, False)
    assert not done
    assert message.startswith("Still stopped: the robot node is not running")
    assert graph.operator.diagnostics()["estopped"]


def test_a_frozen_node_is_named_and_holds_nobody_up(make_graph):
    graph = make_graph(serving=(topics.ROBOT_ESTOP,), frozen=(topics.ROBOT_RESET, topics.LABEL))
    graph.tell_episode(EpisodeStatus.DONE)
    graph.listened()
    resetting = graph.call_async(Reset, topics.OPERATOR_RESET, Reset.Request())
    assert trigger(graph, topics.OPERATOR_START)[0]
    assert estop(graph, True)[0]
    assert not resetting.done()
    wait_until(resetting.done, "the reset is given up")
    assert resetting.result().message.startswith("No reset: the robot node did not answer within 0.5 s")
    graph.tell_episode(EpisodeStatus.RUNNING)
    done, message = trigger(graph, topics.OPERATOR_SUCCESS)
    assert not done
    assert "the controller node did not answer" in message
    assert "the replay_logger node is not running" in message


def test_pressed_again_while_being_released(make_graph):
    graph = make_graph(serving=(), frozen=(topics.ROBOT_ESTOP,))
    estop(graph, True)
    release = graph.call_async(EStop, topics.OPERATOR_ESTOP, EStop.Request(stop=False))
    wait_until(lambda: graph.operator.releasing, "the release is under way")
    estop(graph, True)
    wait_until(release.done, "the release is answered")
    assert release.result().message == "Pressed again; the arm stays stopped."
    assert graph.operator.diagnostics()["estopped"]


def test_an_operator_node_that_is_restarted_does_not_release(graph):
    """What it says first tells the robot node whether to go on; so it first looks at the arm."""
    assert not graph.others.states, "nothing is said before the arm is heard"
    graph.tell_robot("stopped")
    assert graph.state(lambda s: s.estopped, "the e-stop is taken over").estopped
    assert all(state.estopped for state in graph.others.states)
    assert estop(graph, False) == (True, "Released.")


def test_state_is_latched_and_repeated(graph):
    graph.tell_robot("idle")
    heard: list[OperatorState] = []
    wait_until(lambda: len(graph.others.states) >= 2, "said twice without a change")
    graph.asker.create_subscription(OperatorState, topics.OPERATOR_STATE, heard.append, topics.LATCHED)
    wait_until(lambda: heard, "a latecomer hears it")


def test_is_ready_without_anybody(make_graph):
    graph = make_graph(serving=())
    assert (graph.operator.ready, graph.operator.reason) == (True, "")
