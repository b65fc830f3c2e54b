"""``pld operator`` and the operator node's front ends: from key, stick and command to what the graph hears."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hand_tools import DEAD_MAN, Pipe
from operator_graph import PATIENCE_S, Graph, wait_until
from pld_msgs.msg import EpisodeStatus

from pld_core.errors import PLDError, UnknownNameError
from pld_ros import topics
from pld_ros.operating.client import OperatorClient
from pld_ros.operating.front_ends.keyboard import Keyboard
from pld_ros.operating.terminal import StatusLine, operator

SERVED = (topics.ROBOT_RESET, topics.ROBOT_ESTOP, topics.LABEL, topics.LATE_LABEL)


@pytest.fixture
def graph() -> Iterator[Graph]:
    graph = Graph(SERVED)
    yield graph
    graph.close()


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


class Hands:
    """A client with a keyboard, in rounds of its own."""

    def __init__(self) -> None:
        self._ours, self._theirs = pty.openpty()
        self.screen = Screen()
        self._line = StatusLine(self.screen)
        self._keyboard, self.client = Keyboard(self._theirs), OperatorClient("/")

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Go on attending until it is so."""

        def look() -> object:
            self.client.attend(self._keyboard, self._line.say)
            self._line.show(self.client.watch.summary())
            return condition()

        wait_until(look, what)

    def reads(self, text: str) -> None:
        self.until(lambda: text in self.screen.getvalue(), text)

    def close(self) -> None:
        self.client.close()
        self._keyboard.close()
        for fd in (self._ours, self._theirs):
            os.close(fd)


def test_keys_in_a_terminal_reach_the_graph(graph):
    graph.tell_episode(EpisodeStatus.RUNNING)
    newest = graph.newest_state
    with contextlib.closing(Hands()) as hands:
        hands.until(graph.keep_telling_robot("moving"), "the robot is heard")
        hands.reads("episode e-1 running | robot moving")
        hands.type(b"s")
        hands.reads("success: Running episode e-1")
        assert graph.others.asked_of(topics.LABEL)
        hands.type(b"p")
        hands.reads("PAUSED")
        hands.type(b"p")
        hands.until(lambda: not newest().paused, "going on")
        hands.type(b"i")
        hands.until(lambda: newest().taking_over, "a human drives")
        hands.type(b"\x1b")
        hands.until(lambda: newest().estopped and not newest().taking_over, "the e-stop ends it")
        assert graph.others.interventions[0].action[0] == pytest.approx(0.5)
        assert not np.array(graph.others.interventions[-1].action[:6]).any()
        hands.reads("E-STOP")
        hands.type(b"E")
        hands.reads("release: Released")


def test_letting_go_ends_the_take_over(graph):
    with contextlib.closing(Hands()) as hands:
        hands.type(b"ic")
        hands.until(lambda: graph.others.interventions, "a human drives")
        hands.until(lambda: not graph.newest_state().taking_over, "the human has let go")
        assert graph.others.interventions[-1].action[6] == -1.0, "the gripper stays closed"
        assert not np.array(graph.others.interventions[-1].action[:6]).any()


class Terminal:
    """A process with a terminal of its own; it hears nobody."""

    def __init__(self, *command: str) -> None:
        self._ours, self.theirs = pty.openpty()
        self.before = termios.tcgetattr(self.theirs)
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command], stdin=self.theirs, stdout=self.theirs, stderr=self.theirs
        )

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def reads(self, text: str) -> None:
        def shown() -> bool:
            while select.select([self._ours], [], [], 0.0)[0]:
                self.text += os.read(self._ours, 65536).decode()
            return text in self.text

        wait_until(shown, f"{text!r} in {self.text!r}")

    def in_key_mode(self) -> bool:
        return termios.tcgetattr(self.theirs) != self.before

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self._ours, self.theirs):
            os.close(fd)


def test_the_terminal_is_as_before_when_one_leaves():
    with contextlib.closing(Terminal("pld_ros.operating.terminal")) as terminal:
        terminal.reads("Ctrl-C leaves")
        terminal.reads("no controller heard | robot not heard")
        assert terminal.in_key_mode()
        terminal.type(b"e")
        terminal.reads("estop: No operator node answers in namespace '/pld'")
        assert terminal.end(signal.SIGINT) == 0
        assert not terminal.in_key_mode()


def test_the_nodes_own_keyboard_and_its_terminal_afterwards():
    arguments = ("--ros-args", "-p", "front_end:=keyboard")
    with contextlib.closing(Terminal("pld_ros.nodes.operator", *arguments)) as terminal:
        terminal.reads("The keyboard is ready")
        terminal.type(b"p")
        terminal.reads("pause: Paused")
        assert terminal.in_key_mode()
        assert terminal.end(signal.SIGTERM) == 0
        assert not terminal.in_key_mode()


def test_a_gamepad_takes_over_until_it_is_unplugged(tmp_path):
    pipe = Pipe(tmp_path / "js0")
    graph = Graph(SERVED, args=("-p", "front_end:=gamepad", "-p", f"device:={pipe.path}", "-p", "speed:=1.0"))
    try:
        graph.listened()
        pipe.button(0, 1)
        graph.state(lambda s: s.starts == 1, "start")
        pipe.button(DEAD_MAN, 1)
        pipe.axis(1, -1.0)
        graph.state(lambda s: s.taking_over, "a human drives")
        wait_until(lambda: len(graph.others.interventions) >= 5, "a stream of commands")
        assert all(message.action[0] == 1.0 for message in graph.others.interventions[:5])
        assert [message.sequence for message in graph.others.interventions[:5]] == [1, 2, 3, 4, 5]
        pipe.unplug()
        graph.state(lambda s: not s.taking_over, "it ends")
        assert not np.array(graph.others.interventions[-1].action[:6]).any()
        count = len(graph.others.interventions)
        time.sleep(0.2)  # four control periods
        assert len(graph.others.interventions) == count, "nothing is repeated"
        assert "gone" in graph.operator.diagnostics()["front_end"]
        assert graph.operator.ready
    finally:
        graph.close()
        pipe.unplug()


def test_a_missing_gamepad_leaves_the_services(tmp_path):
    graph = Graph(SERVED, args=("-p", "front_end:=gamepad", "-p", f"device:={tmp_path}/js0"))
    try:
        assert "usermod -aG input" in graph.operator.diagnostics()["front_end"]
        graph.listened()
        with contextlib.closing(OperatorClient("/")) as client:
            assert client.call("start")[0]
    finally:
        graph.close()


def test_single_wishes(graph):
    graph.tell_episode(EpisodeStatus.DONE)
    with contextlib.closing(OperatorClient("/")) as client:
        assert client.call("reset", seed=5) == (True, "Reset 1 has begun.")
        assert client.call("pause") == (True, "Paused: the arm holds from the next tick on.")
        assert client.call("resume") == (True, "Goes on.")
        assert client.call("fail")[1].startswith("Recorded episode e-1: failure")
        assert client.call("estop")[0]
        assert client.call("start") == (False, "The e-stop is pressed; release it first.")
        assert client.call("release") == (True, "Released.")
    assert [request.seed for request in graph.others.asked_of(topics.ROBOT_RESET)] == [5]


def test_an_estop_reaches_the_robot_node_when_the_operator_node_is_gone():
    graph = Graph(SERVED, operator=False)
    try:
        with contextlib.closing(OperatorClient("/")) as client:
            done, message = client.call("estop")
            assert done
            assert message.startswith("The operator node is not running; the robot node says")
            with pytest.raises(PLDError, match=r"No operator node answers in namespace '/'.*pld launch"):
                client.call("start")
        assert [request.stop for request in graph.others.asked_of(topics.ROBOT_ESTOP)] == [True]
    finally:
        graph.close()


def estops_found(client: OperatorClient) -> bool:
    return all(each.service_is_ready() for each in client._estops.values())


def test_an_estop_reaches_the_robot_node_when_the_operator_node_hangs():
    graph = Graph(SERVED, frozen=(topics.OPERATOR_ESTOP,), operator=False)
    try:
        with contextlib.closing(OperatorClient("/")) as client:
            wait_until(lambda: estops_found(client), "the operator node is discovered")
            done, message = client.call("estop")
        assert done
        assert message.startswith("The operator node does not answer; the robot node says")
        assert [request.stop for request in graph.others.asked_of(topics.ROBOT_ESTOP)] == [True]
        with contextlib.closing(Hands()) as hands:
            hands.until(lambda: estops_found(hands.client), "the operator node is discovered")
            hands.type(b"\x1b")
            hands.reads("estop (robot node):")
        assert len(graph.others.asked_of(topics.ROBOT_ESTOP)) == 2
    finally:
        graph.close()


def test_a_wish_as_a_command(graph, capsys):
    graph.listened()
    assert operator(["start", "--namespace", "/"]) == 0
    assert capsys.readouterr().out == "The scene is ready (start 1); no episode is waiting for it now.\n"
    assert operator(["fail", "--namespace=/"]) == 1
    assert capsys.readouterr().out == "No episode has run yet; there is nothing to label.\n"


def test_wishes_that_do_not_exist(capsys):
    with pytest.raises(UnknownNameError, match=r"'stop'.*estop"):
        operator(["stop"])
    with pytest.raises(PLDError, match=r"--speed must be more than 0"):
        operator(["--speed", "2"])
    assert operator(["--help"]) == 0
    assert "e or ESC e-stop" in capsys.readouterr().out
