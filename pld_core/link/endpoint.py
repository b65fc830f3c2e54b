"""One ZMQ socket on a thread of its own: what the four ends of the link have in common."""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
import time
from types import TracebackType
from typing import Any, Self

import zmq

from pld_core.errors import LinkError, StorageError

HEARTBEAT_S = 0.5
MISSED_HEARTBEATS = 4  # after so many a peer counts as gone
RETRY_S = 0.1  # after a message that nobody was there to take

_ADDRESS = re.compile(r"tcp://[^:]+:(\d+|\*)|ipc://.+")
_MESSAGES_PER_TURN = 64
_OPTIONS = {
    zmq.LINGER: 200,  # milliseconds that closing may wait for the last acknowledgements to leave
    zmq.IMMEDIATE: 1,  # nothing queues up for a peer that is not there
    zmq.RECONNECT_IVL: 50,
    zmq.RECONNECT_IVL_MAX: 1000,
    zmq.HEARTBEAT_IVL: 1000,  # of TCP: ends connections whose other machine fell silent
    zmq.HEARTBEAT_TIMEOUT: 5000,
}


class Endpoint:
    """Owns one socket that only its own thread touches; callers hand over state and ``_wake`` it.

    address: where a bound socket really listens, also if the port was 0 or ``*``. rejected,
    last_rejection: malformed messages so far, and what was wrong with the last one.
    """

    def __init__(self, title: str, address: str, timeout_s: float) -> None:
        if not _ADDRESS.fullmatch(address):
            raise LinkError(f"Address {address!r} is not valid; give tcp://HOST:PORT, e.g. tcp://127.0.0.1:5757.")
        if not 0 < timeout_s < math.inf:
            raise LinkError(f"The heartbeat must be a positive number of seconds; given a timeout of {timeout_s} s.")
        self.address = address
        self.rejected, self.last_rejection = 0, ""
        self._title, self._timeout_s = title, timeout_s
        self._heard_at = -math.inf
        self._failure: Exception | None = None
        self._closing, self._woken = False, False
        self._pipe_lock = threading.Lock()

    @property
    def peer_age_s(self) -> float:
        """Seconds since the other side was last heard of; infinite before it ever was."""
        return time.monotonic() - self._heard_at

    @property
    def connected(self) -> bool:
        return self.peer_age_s < self._timeout_s

    def close(self) -> None:
        """Stop the thread and free the address; what is not acknowledged stays where it is kept."""
        if self._closing:
            return
        self._closing = True
        self._wake()
        self._thread.join()
        self._context.term()
        with self._pipe_lock:
            for end in self._pipe:
                os.close(end)
            self._pipe = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- for the four kinds of ends; the first three run on the thread ---------------------------------

    def _handle(self, frames: list[bytes]) -> None:
        """Take one message; a LinkError counts it as rejected, anything else ends the thread."""
        raise NotImplementedError

    def _turn(self) -> float:
        """Do what is due; returns the seconds after which something is due again."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Free what the end owns besides the socket, and wake everybody who waits."""

    def _post(self, *frames: bytes) -> bool:
        """Send one message; False if there is no peer that could take it."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _start(self, kind: int, bind: bool, max_bytes: int) -> None:
        """Bind or connect, then run; called last by the constructors. max_bytes: of one message."""
        self._context = zmq.Context()
        self._socket: zmq.Socket[Any] = self._context.socket(kind)
        try:
            for option, value in {**_OPTIONS, zmq.MAXMSGSIZE: max_bytes}.items():
                self._socket.setsockopt(option, value)
            if bind:
                self._socket.bind(re.sub(":0$", ":*", self.address))
                self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
            else:
                self._socket.connect(self.address)
        except zmq.ZMQError as error:
            self._socket.close(0)
            self._context.term()
            self._finish()
            raise LinkError(
                f"The {self._title} cannot use {self.address}: {error.strerror}. Is another one running there, and "
                "is the address one of this machine's?"
            ) from error
        self._pipe: tuple[int, ...] = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        self._thread = threading.Thread(target=self._run, name=self._title, daemon=True)
        self._thread.start()

    def _wake(self) -> None:
        """Let the thread take its turn now."""
        with self._pipe_lock:
            if not self._woken and self._pipe:
                self._woken = True
                os.write(self._pipe[1], b"!")

    def _check(self) -> None:
        """Raise if the end is closed, or what ended its thread."""
        if self._failure is not None:
            kind = StorageError if isinstance(self._failure, StorageError) else LinkError
            raise kind(f"The {self._title} has stopped: {self._failure}") from self._failure
        if self._closing:
            raise LinkError(f"The {self._title} is closed; make a new one.")

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._pipe[0], zmq.POLLIN)
        try:
            while not self._closing:
                wait_s = self._turn()
                ready = dict(poller.poll(math.ceil(max(wait_s, 0.0) * 1000)))
                if self._pipe[0] in ready:
                    os.read(self._pipe[0], 64)
                    self._woken = False  # before the turn, so that nothing announced meanwhile is missed
                if self._socket in ready:
                    self._take_messages()
        except Exception as error:
            self._failure = error
        try:
            self._finish()
        except Exception as error:
            self._failure = self._failure or error
        self._socket.close()

    def _take_messages(self) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(_MESSAGES_PER_TURN):
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
                try:
                    self._handle(frames)
                except LinkError as error:
                    self.rejected, self.last_rejection = self.rejected + 1, str(error)
                else:
                    self._heard_at = time.monotonic()
