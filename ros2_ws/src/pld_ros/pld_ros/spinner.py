"""A thread for a node's callbacks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

T = TypeVar("T")


class Spinner:
    """Runs a node's callbacks on a thread of their own, for nodes whose main thread keeps a rhythm."""

    def __init__(self, node: Node) -> None:
        self.fault: BaseException | None = None
        self._context = node.context
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, name="callbacks", daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass
        except BaseException as fault:  # a node that hears nothing any more must not go on acting
            self.fault = fault
            rclpy.try_shutdown(context=self._context)

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Have ``work`` done between two callbacks, for what rclpy does not let two threads do; until it has begun it
        can be cancelled."""
        done: Future[T] = Future()

        def do() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)

        self._executor.create_task(do)
        return done

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(2.0)
