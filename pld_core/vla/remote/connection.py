"""One websocket to a policy server: a request, an answer; connected again when it breaks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from pld_core.errors import ConfigError, ContractError
from pld_core.vla.remote.wire import MAX_BYTES, WireError, pack, unpack

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0  # between attempts to connect
GOODBYE_S = 0.2  # for a server that hangs to agree to the end
_BROKEN = (ConnectionClosed, InvalidHandshake, OSError)  # TimeoutError is an OSError


class PolicyServerError(ContractError):
    """A policy server does not answer in time, or answers with an error. The episode is void."""


class Connection:
    """Not connected until ``send``. check: sees the server's metadata after each connection and raises for a wrong one.

    Methods take the monotonic time at which they give up and raise PolicyServerError then; before, they connect again
    with growing pauses and send the request once more: a policy's answer depends on nothing else.
    """

    def __init__(self, url: str, headers: Mapping[str, str], check: Callable[[Mapping[str, Any]], None]) -> None:
        self.url = url
        self._headers, self._check = dict(headers), check
        self._open = contextlib.ExitStack()
        self._socket: ClientConnection | None = None
        self._request = b""

    def metadata(self, deadline: float) -> Mapping[str, Any]:
        """What the server says of itself; connects anew."""
        self.close()
        return self._connected(deadline)

    def send(self, request: Mapping[str, Any], deadline: float) -> None:
        self._request = pack(request)
        self._send(deadline)

    def receive(self, deadline: float) -> Mapping[str, Any]:
        """The answer to what was sent. Raises PolicyServerError with the server's words where it failed."""
        while True:
            try:
                if self._socket is None:
                    self._send(deadline)
                assert self._socket is not None
                answer = self._socket.recv(timeout=max(0.0, deadline - time.monotonic()))
                break
            except TimeoutError as late:
                self.close()  # its answer would be taken for that to the next request
                raise PolicyServerError(f"{self.url} has not answered in time; it is slow or hangs.") from late
            except _BROKEN:
                self.close()
        if isinstance(answer, str):
            self.close()  # as the server does
            raise PolicyServerError(f"{self.url} answered with an error: {_last_line(answer)}")
        return _mapping(unpack(answer), self.url)

    def close(self) -> None:
        self._socket = None
        self._open.close()

    def _send(self, deadline: float) -> None:
        while True:
            try:
                if self._socket is None:
                    self._connected(deadline)
                assert self._socket is not None
                self._socket.send(self._request)
                return
            except _BROKEN:
                self.close()

    def _connected(self, deadline: float) -> Mapping[str, Any]:
        pause = FIRST_PAUSE_S
        while True:
            try:
                metadata = self._connect(deadline)
                break
            except (InvalidURI, ValueError) as error:  # ValueError: of a port that is no number
                raise ConfigError(f"{self.url} is no address of a policy server; give ws://host:port.") from error
            except _BROKEN as error:
                self.close()
                if time.monotonic() + pause > deadline:
                    raise PolicyServerError(
                        f"No policy server answers at {self.url} ({_reason(error)}). Is it running, and its port open?"
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            except ContractError:
                self.close()
                raise
        try:
            self._check(metadata)
        except ContractError:
            self.close()
            raise
        return metadata

    def _connect(self, deadline: float) -> Mapping[str, Any]:
        patience = max(0.01, deadline - time.monotonic())
        # A server that computes in its event loop answers no pings meanwhile; the deadline judges it instead.
        opening = connect(
            self.url, compression=None, max_size=MAX_BYTES, additional_headers=self._headers, open_timeout=patience,
            close_timeout=GOODBYE_S, ping_interval=None, proxy=None,
        )  # fmt: skip
        self._socket = self._open.enter_context(opening)
        first = self._socket.recv(timeout=max(0.01, deadline - time.monotonic()))
        if isinstance(first, str):
            raise ConnectionRefusedError(f"instead of metadata it sent: {_last_line(first)}")  # full, for now
        return _mapping(unpack(first), self.url)


def _mapping(value: Any, url: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise WireError(f"{url} sent {type(value).__name__}; valid is a map with text keys.")
    return value


def _last_line(text: str) -> str:
    """Of a traceback, what is wrong."""
    return (text.strip().splitlines() or ["(empty)"])[-1][:500]


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
