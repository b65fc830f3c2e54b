"""openpi's websocket protocol: metadata first, then an answer for each request; an error is text, and the end."""

from __future__ import annotations

import asyncio
import http
import socket
import time
from collections.abc import Mapping
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from pld_core.errors import ConfigError, ContractError, PLDError
from pld_core.serve.backends import Backend
from pld_core.serve.batcher import Batcher
from pld_core.types import ActionChunk
from pld_core.vla.remote.key_map import Keys
from pld_core.vla.remote.wire import MAX_BYTES, pack, unpack

HEALTH = "/healthz"
RESET = "reset"  # true in a request that begins an episode, where a connection serves several


class PolicyServer:
    """Serves one backend to many clients at once: nobody waits for another's connection, only for the policy.

    most: requests that are computed together. metadata: what clients are told besides the backend's own.
    """

    def __init__(self, backend: Backend, keys: Keys, most: int = 16, metadata: Mapping[str, Any] | None = None) -> None:
        self._backend, self._keys, self._most = backend, keys, most
        self._metadata = {**backend.metadata(), **(metadata or {})}
        self._free = list(range(backend.lanes))

    @property
    def version(self) -> str:
        return str(self._metadata["version"])

    async def run(self, host: str, port: int, started: asyncio.Future[int] | None = None) -> None:
        """Serve until cancelled; ``started`` is told the port (0 takes a free one). ConfigError for one in use."""
        async with Batcher(self._backend.answer, self._most) as self._batcher:
            server = await self._listen(host, port)
            async with server:
                if started is not None:
                    started.set_result(next(iter(server.sockets)).getsockname()[1])
                await server.serve_forever()

    async def _listen(self, host: str, port: int) -> Server:
        try:
            # A client that blocks in its own loop answers no pings: it is gone when its machine is (_watch_over).
            return await serve(
                self._converse, host, port, compression=None, max_size=MAX_BYTES, ping_interval=None,
                process_request=_health,
            )  # fmt: skip
        except OSError as error:
            raise ConfigError(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port.") from error

    async def _converse(self, client: ServerConnection) -> None:
        if not self._free:
            await _refuse(client, f"{self._backend.lanes} clients are served already; no more are possible.")
            return
        lane = self._free.pop()
        _watch_over(client)
        self._backend.reset(lane)
        try:
            await client.send(pack(self._metadata))
            await self._serve(client, lane)
        except ConnectionClosed:
            pass
        except PLDError as error:
            await _refuse(client, str(error))
        except Exception as error:
            await _refuse(client, f"{type(error).__name__}: {error}")
            raise
        finally:
            self._free.append(lane)

    async def _serve(self, client: ServerConnection, lane: int) -> None:
        total_ms: float | None = None
        async for data in client:
            began = time.perf_counter()
            request = _request(data)
            if request.get(RESET) is True:
                self._backend.reset(lane)
            seen = self._keys.observation(request, self._backend.cameras)
            asked = time.perf_counter()
            chunk: ActionChunk = await self._batcher.ask((lane, seen))
            timing = {"infer_ms": 1e3 * (time.perf_counter() - asked)}
            if total_ms is not None:
                timing["prev_total_ms"] = total_ms
            await client.send(pack({**self._keys.answer(chunk), "server_timing": timing}))
            total_ms = 1e3 * (time.perf_counter() - began)


def _request(data: str | bytes) -> Mapping[str, Any]:
    if isinstance(data, str):
        raise ContractError("A text message came; a request is binary, msgpack.")
    request = unpack(data)
    if not isinstance(request, Mapping):
        raise ContractError(f"The request is {type(request).__name__}; valid is a map of the observation's keys.")
    return request


def _watch_over(client: ServerConnection) -> None:
    """A machine that has lost its power or network says no goodbye: have the kernel ask it, and free its lane."""
    sock = client.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):  # seconds, seconds, questions
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def _refuse(client: ServerConnection, why: str) -> None:
    """As openpi: text, then the end of the connection."""
    try:
        await client.send(why)
        await client.close(CloseCode.INTERNAL_ERROR, "The reason is in the text before.")
    except ConnectionClosed:
        pass


def _health(client: ServerConnection, request: Request) -> Response | None:
    return client.respond(http.HTTPStatus.OK, "OK\n") if request.path == HEALTH else None
