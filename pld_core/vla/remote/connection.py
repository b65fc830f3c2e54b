"""One websocket to a policy server: a request, an answer; connected again when it breaks."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from pld_core.errors import ConfigError, ContractError, PolicyUnavailableError
from pld_core.vla.remote.wire import MAX_BYTES, WireError, pack, unpack

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0  # between attempts to connect
GOODBYE_S = 0.2  # for a server that hangs to agree to the end
_BROKEN = (ConnectionClosed, InvalidHandshake, OSError)  # TimeoutError is an OSError


class PolicyServerError(ContractError):
    """A policy server answers with an error. The episode is void."""


class Connection:
    """Not connected until ``send``. check: sees the server's metadata after each connection and raises for a wrong one.

    Methods take the monotonic time at which they give up and raise PolicyUnavailableError then; before, they connect
    again after growing pauses and send the request once more.
    """

    def __init__(self, url: str, headers: Mapping[str, str], check: Callable[[Mapping[str, Any]], None]) -> None:
        self.url = url
        self._headers, self._check = dict(headers), check
        self._open = contextlib.ExitStack()
        self._socket: ClientConnection | None = None
        self._request, self._pause_s = b"", FIRST_PAUSE_S

    def metadata(self, deadline: float) -> Mapping[str, Any]:
        """What the server says of itself; connects anew."""
        self.close()
        self._pause_s = FIRST_PAUSE_S
        while True:
            try:
                return self._connect(deadline)[1]
            except _BROKEN as error:
                self._wait(deadline, error)

    def send(self, request: Mapping[str, Any], deadline: float) -> None:
        self._request, self._pause_s = pack(request), FIRST_PAUSE_S
        self._send(deadline)

    def receive(self, deadline: float) -> Mapping[str, Any]:
        """The answer to what was sent. Raises PolicyServerError with the server's words where it failed."""
        while True:
            try:
                connected = self._socket or self._send(deadline)
                answer = connected.recv(timeout=max(0.0, deadline - time.monotonic()))
                break
            except TimeoutError as late:
                self.close()  # its answer would be taken for that to the next request
                raise PolicyUnavailableError(f"{self.url} has not answered in time; it is slow or hangs.") from late
            except _BROKEN as error:
                self._wait(deadline, error)
        if isinstance(answer, str):
            self.close()  # as the server does
            raise PolicyServerError(f"{self.url} answered with an error: {_last_line(answer)}")
        return _mapping(unpack(answer), self.url)

    def close(self) -> None:
        self._socket = None
        self._open.close()

    def _send(self, deadline: float) -> ClientConnection:
        """Returns where its answer will come."""
        while True:
            try:
                connected = self._socket or self._connect(deadline)[0]
                # A peer that reads no more would block a large request until the kernel gives up, minutes later.
                _limit_sending(connected.socket, deadline - time.monotonic())
                connected.send(self._request)
                return connected
            except _BROKEN as error:
                self._wait(deadline, error)

    def _wait(self, deadline: float, error: Exception) -> None:
        """Before the next attempt; raises where there is no time for one."""
        self.close()
        if time.monotonic() + self._pause_s > deadline:
            raise PolicyUnavailableError(
                f"No policy server answers at {self.url} ({_reason(error)}). Is it running, and its port open?"
            ) from error
        time.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _connect(self, deadline: float) -> tuple[ClientConnection, Mapping[str, Any]]:
        """One attempt, and the server's metadata; what it raises leaves no connection behind."""
        try:
            self._socket = connected = self._open.enter_context(self._opening(deadline))
            first = connected.recv(timeout=max(0.01, deadline - time.monotonic()))
            if isinstance(first, str):  # full, for now
                raise ConnectionRefusedError(f"instead of metadata it sent: {_last_line(first)}")
            metadata = _mapping(unpack(first), self.url)
            self._check(metadata)
        except BaseException:
            self.close()
            raise
        return connected, metadata

    def _opening(self, deadline: float) -> ClientConnection:
        patience = max(0.01, deadline - time.monotonic())
        try:
            # A server that computes in its event loop answers no pings meanwhile; the deadline judges it instead.
            return connect(
                self.url, compression=None, max_size=MAX_BYTES, additional_headers=self._headers,
                open_timeout=patience, close_timeout=GOODBYE_S, ping_interval=None, proxy=None,
            )  # fmt: skip
        except (InvalidURI, ValueError) as error:  # ValueError: of a port that is no number
            raise ConfigError(f"{self.url} is no address of a policy server; give ws://host:port.") from error


def _limit_sending(sock: socket.socket, seconds: float) -> None:
    whole, rest = divmod(max(seconds, 0.001), 1.0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(whole), int(1e6 * rest)))


def _mapping(value: Any, url: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise WireError(f"{url} sent {type(value).__name__}; valid is a map with text keys.")
    return value


def _last_line(text: str) -> str:
    """Of a traceback, what is wrong."""
    return (text.strip().splitlines() or ["(empty)"])[-1][:500]


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
