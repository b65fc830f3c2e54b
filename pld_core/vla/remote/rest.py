"""POST to a policy server over HTTP, one connection for each request; tried again when it breaks."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from pld_core.errors import ConfigError, PolicyUnavailableError
from pld_core.vla.remote.connection import FIRST_PAUSE_S, LONGEST_PAUSE_S, PolicyServerError
from pld_core.vla.remote.wire import WireError

MAX_BYTES = 2**22  # of an answer: a chunk of 10 000 numbers is 110 kB
_PIECE = 2**16
_HAIR_S = 0.05  # that a timeout may come early
_LATER = (502, 503, 504)  # a gateway whose server is away
_BROKEN = (OSError, http.client.HTTPException)  # TimeoutError is an OSError
T = TypeVar("T")


class Rest:
    """url: ``http(s)://host:port``, with ``path`` behind it where it has none.

    Methods take the monotonic time at which they give up and raise PolicyUnavailableError then; before, they try again
    after growing pauses. So that a request may come twice: only for servers that remember nothing.
    """

    def __init__(self, url: str, path: str, headers: Mapping[str, str]) -> None:
        self._kind, self._host, self._port, own_path = _address(url)
        self.url = url if own_path else url.rstrip("/") + path
        self._path = own_path or path
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", **headers}

    def wait(self, deadline: float) -> None:
        """Until somebody listens there."""
        self._persist(self._knock, deadline)

    def post(self, body: bytes, deadline: float) -> bytes:
        """The answer's body. Raises PolicyServerError for a status other than 200."""
        return self._persist(lambda until: self._exchange(body, until), deadline)

    def _persist(self, attempt: Callable[[float], T], deadline: float) -> T:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return attempt(deadline)
            except _BROKEN as error:
                if isinstance(error, TimeoutError) and time.monotonic() > deadline - _HAIR_S:
                    raise PolicyUnavailableError(
                        f"{self.url} has not answered in time; it is slow or hangs."
                    ) from error
                if time.monotonic() + pause_s > deadline:
                    raise PolicyUnavailableError(
                        f"No policy server answers at {self.url} ({str(error) or type(error).__name__}). Is it "
                        "running, and its port open?"
                    ) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _knock(self, deadline: float) -> None:
        socket.create_connection((self._host, self._port), timeout=_left(deadline)).close()

    def _exchange(self, body: bytes, deadline: float) -> bytes:
        with contextlib.closing(self._kind(self._host, self._port, timeout=_left(deadline))) as connection:
            connection.request("POST", self._path, body, {**self._headers, "Connection": "close"})
            sock = connection.sock
            sock.settimeout(_left(deadline))
            with _ended(sock, deadline), connection.getresponse() as answer:
                said = _read(answer, sock, deadline)
        if answer.status in _LATER:
            raise ConnectionRefusedError(f"status {answer.status}")
        if answer.status != http.client.OK:
            raise PolicyServerError(
                f"{self.url} answered with status {answer.status} {answer.reason}: {excerpt(said)}. Is it the policy "
                "server?"
            )
        return said


def excerpt(data: bytes) -> str:
    """The beginning, for a message."""
    text = " ".join(data[:200].decode(errors="replace").split())
    return repr(text + "..." if len(data) > 200 else text)


@contextlib.contextmanager
def _ended(sock: socket.socket, deadline: float) -> Iterator[None]:
    """At the deadline, with a TimeoutError: the socket's own timeout begins anew with each byte."""
    late = threading.Event()

    def end() -> None:
        late.set()
        with contextlib.suppress(OSError):  # nobody is there any more
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # that of TLS also takes the cipher from who reads

    timer = threading.Timer(_left(deadline), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except _BROKEN:
        if not late.is_set():
            raise
    finally:
        timer.cancel()
    if late.is_set():  # the end that was read may be this one
        raise TimeoutError


def _read(answer: http.client.HTTPResponse, sock: socket.socket, deadline: float) -> bytes:
    """All of the body; a server that sends it drop by drop has until the deadline too."""
    said = bytearray()
    while piece := answer.read1(_PIECE):
        said += piece
        if len(said) > MAX_BYTES:
            raise WireError(f"The policy server answers more than {MAX_BYTES} bytes, which are no actions.")
        if answer.isclosed():  # and with it the socket: that was the end
            break
        sock.settimeout(_left(deadline))
    if answer.length:
        raise http.client.IncompleteRead(bytes(said), answer.length)
    return bytes(said)


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _address(url: str) -> tuple[type[http.client.HTTPConnection], str, int, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # of a port that is no number
        host = port = parts = None
    if parts is None or not host or parts.scheme not in ("http", "https") or "@" in parts.netloc or parts.query:
        raise ConfigError(f"{url!r} is no address of a policy server over HTTP; give http://host:port.")
    if not parts.path.isascii():
        raise ConfigError(f"{url!r} has a path that is not ASCII; write such characters as http://host/%C3%A4.")
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    return kind, host, port or (443 if secure else 80), parts.path.rstrip("/")
