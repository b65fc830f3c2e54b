"""Calling another node's service, or what blocks, from a callback without holding up the executor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future

_PERIOD_S = 0.02


class NoAnswerError(Exception):
    """A service is not there, or did not answer in time. The text says which."""


async def ask(
    node: Node, group: CallbackGroup, client: Client, request: Any, deadline_s: float, repeat_s: float = float("inf")
) -> Any:
    """The response. Raises NoAnswerError at the deadline, in seconds of real time.

    For coroutine callbacks of ``node``; group: reentrant, the one that the client is in too. repeat_s: ask
    again after that time, for what may be said twice: DDS can lose the answer of a server that has just begun.
    """
    server = client.srv_name.strip("/").split("/")[-2]
    finished: Future[None] = Future(executor=node.executor)
    deadline = time.monotonic() + deadline_s
    calls: list[Future[Any]] = []
    due = time.monotonic()

    def answered() -> Future[Any] | None:
        return next((call for call in calls if call.done()), None)

    def look() -> None:
        nonlocal due
        over = time.monotonic() >= deadline or answered() is not None
        if not over and time.monotonic() >= due and client.service_is_ready():
            due = time.monotonic() + repeat_s
            calls.append(client.call_async(request))
            calls[-1].add_done_callback(lambda _: look())
        if over and not finished.done():
            finished.set_result(None)

    look()
    timer = node.create_timer(_PERIOD_S, look, group, clock=Clock(clock_type=ClockType.STEADY_TIME))
    try:
        await finished
    finally:
        node.destroy_timer(timer)
    if not calls:
        raise NoAnswerError(f"the {server} node is not running (no service {client.srv_name})")
    answer = answered()
    for call in calls:
        if call is not answer:
            client.remove_pending_request(call)
    if answer is None:
        raise NoAnswerError(f"the {server} node did not answer within {deadline_s:g} s ({client.srv_name})")
    return answer.result()


async def elsewhere(node: Node, call: Callable[[], Any]) -> Any:
    """What a call gives that blocks, made on a thread of its own; raises what it raises. For coroutine callbacks."""
    finished: Future[Any] = Future(executor=node.executor)

    def run() -> None:
        try:
            finished.set_result(call())
        except Exception as error:
            finished.set_exception(error)

    finished.add_done_callback(lambda _: None)  # wakes the executor
    threading.Thread(target=run, name=f"{node.get_name()} elsewhere", daemon=True).start()
    return await finished
