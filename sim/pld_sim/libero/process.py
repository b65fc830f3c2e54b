"""The parent's end of a worker process: start it, ask it, notice that it is gone."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from pld_core import registry
from pld_core.errors import ConfigError, ContractError, EpisodeLostError
from pld_core.link.codec import decode, encode
from pld_sim.libero.suites import Order

START_TIMEOUT_S = 300.0  # the first start on a machine compiles the controller
ANSWER_TIMEOUT_S = 120.0
CLOSE_TIMEOUT_S = 5.0
TAIL_BYTES = 2000  # of what a dead worker said


class WorkerProcess:
    """One simulation in a process of its own: several OpenGL contexts in one process break without a word.

    The worker ends when this end of the socket closes, also by the kernel's hand if this process is killed. (The
    kernel's parent-death signal would follow the thread that started it, not the process.) Messages
    are msgpack with typed arrays. What the worker prints goes to an unnamed file, for error messages.
    """

    def __init__(self, order: Order) -> None:
        self._order, self._ready, self._unread = order, False, 0
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 closed in close()
        ours, theirs = socket.socketpair()
        environment = {"MUJOCO_GL": "egl"} if sys.platform == "linux" else {}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pld_sim.libero.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=subprocess.STDOUT,
                env={**environment, "OMP_NUM_THREADS": "1", **os.environ},
            )
        self._connection = Connection(ours.detach())
        self._send(dataclasses.asdict(order))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def gone(self) -> bool:
        return self._connection.closed

    def wait_until_ready(self) -> dict[str, Any]:
        """What the worker says of its task; raises ConfigError where the extra is missing."""
        return self._answer(START_TIMEOUT_S)

    def ask(self, **message: Any) -> Callable[[], dict[str, Any]]:
        """Send a request; the function that comes back waits for the answer.

        Raises EpisodeLostError, here or there; ContractError for what the worker refuses, and where it has gone
        before; ConfigError where OpenGL does not work.
        """
        if self.gone:
            raise ContractError(f"The process of {self._order.task} is gone; reset() starts another.")
        while self._unread:  # somebody was interrupted between question and answer
            self._answer(ANSWER_TIMEOUT_S)
        self._send(message)
        return lambda: self._answer(ANSWER_TIMEOUT_S)

    def close(self) -> None:
        """End the process; harmless when it has ended already."""
        if self._said.closed:
            return
        self._connection.close()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._connection.send_bytes(encode(message))
        except OSError as error:
            raise self._gone() from error
        self._unread += 1

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        try:
            if not self._connection.poll(timeout_s):
                raise self._gone(f"did not answer for {timeout_s:.0f} s")
            answer = decode(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._gone() from error
        self._unread -= 1
        if "missing" in answer:
            self.close()
            error = ImportError(answer["message"], name=answer["missing"])
            raise ConfigError(f"Cannot load {self._order.task}: {error}. {registry.import_hint(error)}")
        if "unusable" in answer:
            raise ConfigError(answer["unusable"])
        if "refused" in answer:
            raise ContractError(answer["refused"])
        return answer

    def _gone(self, how: str = "") -> EpisodeLostError:
        deadline = time.monotonic() + 1.0
        while not how and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        how = how or f"ended with exit status {self._process.poll()}"
        self._process.kill()
        tail = self._tail()
        self.close()
        return EpisodeLostError(
            f"The process of {self._order.task} {how}; the episode is void, the next reset starts another. "
            f"Out of memory (2 GB each)? Its last words: {tail or '(none)'}"
        )

    def _tail(self) -> str:
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, size - TAIL_BYTES))
        return self._said.read().decode(errors="replace").strip()
