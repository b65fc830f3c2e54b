"""Talks to a running operator node from another process; the hands of ``pld operator``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pld_msgs.msg import DeltaCommand, OperatorState
from pld_msgs.srv import EStop, Pause, Reset
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from pld_core.errors import PLDError
from pld_ros import topics
from pld_ros.convert import floats
from pld_ros.operating.front_ends.base import FrontEnd, OperatorEvent
from pld_ros.operating.graph_watch import GraphWatch

ANSWER_S = 5.0  # longer than the operator node itself waits for the others
FIND_S = 3.0  # how long a node may take to be discovered
STOP_FIND_S = 1.0  # that an e-stop waits for a second answer, or for anybody to be discovered
STOP_POLL_S = 0.02
DRIVE_PERIOD_S = 0.05
_TRIGGERS: Mapping[str, str] = {
    "start": topics.OPERATOR_START, "success": topics.OPERATOR_SUCCESS, "fail": topics.OPERATOR_FAIL,
}  # fmt: skip
OPERATOR, ROBOT = "operator node", "robot node"
COMMANDS = (*_TRIGGERS, "pause", "resume", "reset", "estop", "release")


class OperatorClient(Node):
    """Spins itself, in ``call`` and ``attend``; use it from one thread."""

    def __init__(self, namespace: str, context: Context | None = None) -> None:
        name = f"operator_terminal_{os.getpid()}"
        super().__init__(name, context=context, namespace=namespace, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)
        self._callers = {name: self.create_client(Trigger, name) for name in _TRIGGERS.values()}
        self._callers[topics.OPERATOR_PAUSE] = self.create_client(Pause, topics.OPERATOR_PAUSE)
        self._callers[topics.OPERATOR_RESET] = self.create_client(Reset, topics.OPERATOR_RESET)
        self._callers[topics.OPERATOR_ESTOP] = self.create_client(EStop, topics.OPERATOR_ESTOP)
        self._estops = {
            OPERATOR: self._callers[topics.OPERATOR_ESTOP],
            ROBOT: self.create_client(EStop, topics.ROBOT_ESTOP),
        }
        self._drives = self.create_publisher(DeltaCommand, topics.OPERATOR_DRIVE, topics.command(None))
        self._pending: dict[Future[Any], tuple[str, float]] = {}
        self._driving, self._drove_at = False, float("-inf")
        self.watch = GraphWatch(self)

    def call(self, command: str, seed: int = 0) -> tuple[bool, str]:
        """Say one thing and wait for the answer. Raises PLDError if the operator node is not there; an e-stop goes
        to the robot node as well, since an operator node that hangs or has just died still seems to be there."""
        if command == "estop":
            return self._estop()
        client, request = self._request(command, seed)
        if not client.wait_for_service(timeout_sec=FIND_S):
            raise PLDError(self.nobody())
        return self._finish(client, request)

    def attend(self, front_end: FrontEnd, say: Callable[[str], None], timeout_s: float = 0.02) -> None:
        """One round of a front end in this terminal: keys out, answers in. say: hears the answers."""
        for event in front_end.poll():
            self._send(event, say)
        self.drive(front_end.drive())
        self._executor.spin_once(timeout_sec=timeout_s)
        for future, (command, deadline) in list(self._pending.items()):
            if future.done() or time.monotonic() > deadline:
                del self._pending[future]
                say(f"{command}: {_answer(future)[1]}")

    def drive(self, motion: np.ndarray | None) -> None:
        """How the human moves the arm (see FrontEnd.drive), at most every 50 ms; None lets go."""
        now = time.monotonic()
        if motion is None and self._driving:
            self._drives.publish(DeltaCommand())
        if motion is not None and now - self._drove_at >= DRIVE_PERIOD_S:
            self._drove_at = now
            self._drives.publish(DeltaCommand(action=floats(motion)))
        self._driving = motion is not None

    def nobody(self) -> str:
        return (
            f"No operator node answers in namespace {self.get_namespace()!r}, ROS_DOMAIN_ID "
            f"{os.environ.get('ROS_DOMAIN_ID', '0')}. Start a graph (`pld launch sim_train`), or give the "
            "--namespace and the ROS_DOMAIN_ID of the one that runs."
        )

    def close(self) -> None:
        self.drive(None)
        self._executor.shutdown()
        self.destroy_node()

    def _send(self, event: OperatorEvent, say: Callable[[str], None]) -> None:
        command = event.value
        state = self.watch.newest(OperatorState)
        if event is OperatorEvent.PAUSE and state is not None and state.paused:
            command = "resume"
        client, request = self._request(command)
        clients = {"": client}
        if event is OperatorEvent.ESTOP:
            clients = {"" if name == OPERATOR else f" ({name})": each for name, each in self._estops.items()}
        ready = {who: each for who, each in clients.items() if each.service_is_ready()}
        if not ready:
            say(f"{command}: {self.nobody()}")
        for who, each in ready.items():
            self._pending[each.call_async(request)] = (f"{command}{who}", time.monotonic() + ANSWER_S)

    def _request(self, command: str, seed: int = 0) -> tuple[Client, Any]:
        if command in _TRIGGERS:
            return self._callers[_TRIGGERS[command]], Trigger.Request()
        if command in ("pause", "resume"):
            return self._callers[topics.OPERATOR_PAUSE], Pause.Request(paused=command == "pause")
        if command == "reset":
            return self._callers[topics.OPERATOR_RESET], Reset.Request(seed=seed)
        return self._callers[topics.OPERATOR_ESTOP], EStop.Request(stop=command == "estop")

    def _estop(self) -> tuple[bool, str]:
        """Ask operator node and robot node at the same time; either may confirm."""
        asked: dict[str, Future[Any]] = {}
        began = time.monotonic()
        while not self._is_decided(asked, time.monotonic() - began):
            for name, client in self._estops.items():
                if name not in asked and client.service_is_ready():
                    asked[name] = client.call_async(EStop.Request(stop=True))
            self._executor.spin_once(timeout_sec=STOP_POLL_S)
        if not asked:
            raise PLDError(self.nobody())
        answers = {name: _answer(future) for name, future in asked.items()}
        if OPERATOR in answers and (answers[OPERATOR][0] or ROBOT not in answers):
            return answers[OPERATOR]
        done, message = answers[ROBOT]
        silent = OPERATOR in asked and not asked[OPERATOR].done()
        why = "does not answer" if silent else "cannot confirm it" if OPERATOR in asked else "is not running"
        return done, f"The operator node {why}; the robot node says: {message}."

    def _is_decided(self, asked: Mapping[str, Future[Any]], waited_s: float) -> bool:
        """All have answered; or, after a while, one has confirmed or nobody is left to wait for."""
        answered = [future for future in asked.values() if future.done()]
        if len(answered) == len(self._estops) or waited_s > ANSWER_S:
            return True
        confirmed = any(_answer(future)[0] for future in answered)
        return waited_s > STOP_FIND_S and (confirmed or len(answered) == len(asked))

    def _finish(self, client: Client, request: Any) -> tuple[bool, str]:
        future = client.call_async(request)
        self._executor.spin_until_future_complete(future, timeout_sec=ANSWER_S)
        return _answer(future)


def _answer(future: Future[Any]) -> tuple[bool, str]:
    if not future.done():
        return False, f"No answer within {ANSWER_S:g} s; is the node stuck?"
    response: Any = future.result()
    done = response.success if isinstance(response, Trigger.Response) else response.ok
    return done, response.message
