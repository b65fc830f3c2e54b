"""Services that the controller asks for something."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from pld_msgs.srv import Reset

from pld_core.errors import RobotError
from pld_ros import topics
from pld_ros.convert import time_msg
from pld_ros.node import PldNode

SERVICE_TIMEOUT_S = 5.0  # for the robot node to be there
RESET_ANSWER_S = 1.0  # it answers at once; DDS may lose what is said to a node that it has just met ...
RESET_ASKED = 5  # ... or to one that is dead and not forgotten yet


class ArmReset:
    """Has the robot node reset the arm. It answers at once; done it is when states say so."""

    def __init__(self, node: PldNode, is_paused: Callable[[], bool]) -> None:
        self._client = node.create_client(Reset, topics.ROBOT_RESET)
        self._is_paused = is_paused
        self._request = Reset.Request()

    def begin(self, seed: int) -> int:
        """The number of the reset that has begun; raises RobotError where none has."""
        if not self._client.wait_for_service(timeout_sec=SERVICE_TIMEOUT_S):
            raise RobotError("The robot node does not answer. Is it running?")
        self._request = Reset.Request(seed=seed, asked_at=time_msg(time.time_ns()))
        for _ in range(RESET_ASKED):
            if self._is_paused():
                raise RobotError("The operator paused before the reset.")
            answer = call(self._client, self._request, RESET_ANSWER_S)
            if answer is not None:
                break
        else:
            raise RobotError("The robot refused to reset: no answer.")
        if not answer.ok:
            raise RobotError(f"The robot refused to reset: {answer.message}.")
        return int(answer.reset)

    def failure(self) -> str:
        """Why the reset that was begun has failed; empty if it goes on or is done, or if nobody answers."""
        answer = call(self._client, self._request, RESET_ANSWER_S)
        return "" if answer is None or answer.ok else answer.message


def call(client: Any, request: Any, timeout_s: float) -> Any | None:
    """The answer of a service, from a thread that is not the callbacks'; None after the timeout."""
    done = threading.Event()
    future = client.call_async(request)
    future.add_done_callback(lambda _: done.set())
    if not done.wait(timeout_s):
        client.remove_pending_request(future)
        return None
    return future.result()
