"""Weights down to the robot: the newest version, whole, to whoever asks.

The subscriber asks with every heartbeat, the publisher answers what it offers (``digest`` is the SHA-256
of the encoded weights, empty before the first); the subscriber fetches chunk by chunk what it does not
hold yet. Nobody remembers anybody, so late joiners and restarts of either side need nothing special.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zmq

from pld_core.errors import LinkError
from pld_core.link.codec import MAX_BYTES, encode, unpack
from pld_core.link.endpoint import HEARTBEAT_S, MISSED_HEARTBEATS, RETRY_S, Endpoint

_CHUNK_BYTES = 2**19
_MESSAGE_BYTES = 2 * _CHUNK_BYTES
_FORGET_AFTER_S = 60.0  # a subscriber that has gone for good

_REQUEST = {"digest": str, "offset": int}  # an empty digest: only a heartbeat
_OFFER = {"digest": str, "bytes": int, "offset": int, "chunk": bytes}
_WEIGHTS = {"version": str, "arrays": dict, "metadata": dict}


@dataclass(frozen=True)
class Weights:
    """One complete version. arrays: nested dictionaries of arrays, as they were published."""

    version: str
    arrays: dict[str, Any]
    metadata: dict[str, Any]


class WeightsPublisher(Endpoint):
    """Offers the version that was published last."""

    def __init__(self, address: str = "tcp://127.0.0.1:5758") -> None:
        super().__init__("weights publisher", address, MISSED_HEARTBEATS * HEARTBEAT_S)
        self._offered: tuple[str, bytes] = ("", b"")  # digest, encoded weights
        self._announced = ""
        self._peers: dict[bytes, float] = {}  # when each subscriber was last heard of
        self._start(zmq.ROUTER, bind=True, max_bytes=_MESSAGE_BYTES)

    @property
    def peers_age_s(self) -> tuple[float, ...]:
        """Seconds since each subscriber was last heard of, youngest first."""
        now = time.monotonic()
        return tuple(sorted(now - seen for seen in list(self._peers.values())))

    def publish(self, version: str, arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        """Replace what is offered; the arrays may be changed afterwards."""
        self._check()
        if not isinstance(version, str) or not version:
            raise LinkError(f"The version must be a text that is not empty; given {version!r}.")
        fields = {"version": version, "arrays": _arrays(arrays), "metadata": dict(metadata)}
        data = encode({"kind": "pld.weights.1", **fields})
        self._offered = (hashlib.sha256(data).hexdigest(), data)
        self._wake()

    def _handle(self, frames: list[bytes]) -> None:
        if len(frames) != 2:
            raise LinkError(f"A message has one part, given {len(frames) - 1}; only a subscriber makes valid ones.")
        request = unpack(frames[1], "pld.request.1", _REQUEST)
        self._peers[frames[0]] = time.monotonic()
        self._offer(frames[0], request["digest"], request["offset"])

    def _turn(self) -> float:
        if self._announced != self._offered[0]:
            self._announced = self._offered[0]
            for peer in self._peers:
                self._offer(peer)
        limit = time.monotonic() - _FORGET_AFTER_S
        self._peers = {peer: seen for peer, seen in self._peers.items() if seen > limit}
        return HEARTBEAT_S

    def _offer(self, peer: bytes, digest: str = "", offset: int = 0) -> None:
        offered, data = self._offered
        chunk = data[offset : offset + _CHUNK_BYTES] if digest == offered else b""
        offer = {"digest": offered, "bytes": len(data), "offset": offset, "chunk": chunk}
        self._post(peer, encode({"kind": "pld.offer.1", **offer}))


class WeightsSubscriber(Endpoint):
    """Keeps the newest version that has arrived completely, whatever becomes of the publisher."""

    def __init__(self, address: str, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        super().__init__("weights subscriber", address, MISSED_HEARTBEATS * heartbeat_s)
        self._heartbeat_s = heartbeat_s
        self._arrived = threading.Condition()
        self._latest: Weights | None = None
        self._digest = ""  # what is being fetched, or was last
        self._data = bytearray()  # as much of it as is there
        self._fetching = False
        self._beat_at, self._progress_at = 0.0, 0.0
        self._start(zmq.DEALER, bind=False, max_bytes=_MESSAGE_BYTES)

    def latest(self) -> Weights | None:
        """The newest complete version; None before the first. Never waits."""
        return self._latest

    def wait_for(self, version: str, timeout_s: float) -> Weights | None:
        """The weights once ``version`` is the newest; None if it is not within the timeout."""

        def found() -> Weights | None:
            return self._latest if self._latest and self._latest.version == version else None

        with self._arrived:
            self._arrived.wait_for(lambda: found() or self._failure or self._closing, timeout_s)
        if not found():
            self._check()
        return found()

    def _handle(self, frames: list[bytes]) -> None:
        offer = unpack(frames[-1], "pld.offer.1", _OFFER)
        if not offer["digest"]:
            return
        if offer["bytes"] > MAX_BYTES:
            raise LinkError(f"Offered weights of {offer['bytes']} bytes; at most {MAX_BYTES} are valid.")
        if offer["digest"] != self._digest:
            self._digest, self._data, self._fetching = offer["digest"], bytearray(), True
            self._ask()
        elif self._fetching and offer["chunk"] and offer["offset"] == len(self._data):
            self._data += offer["chunk"]
            if len(self._data) < offer["bytes"]:
                self._ask()
            else:
                self._fetching = False
                self._take(bytes(self._data))

    def _take(self, data: bytes) -> None:
        self._data = bytearray()
        if hashlib.sha256(data).hexdigest() != self._digest:
            self._digest = ""  # fetched anew with the next offer
            raise LinkError(f"Weights of {len(data)} bytes do not have the digest that was offered.")
        fields = unpack(data, "pld.weights.1", _WEIGHTS)
        weights = Weights(fields["version"], _arrays(fields["arrays"]), fields["metadata"])
        with self._arrived:
            self._latest = weights
            self._arrived.notify_all()

    def _ask(self) -> None:
        """Request the next chunk; only one is ever under way, which is all the flow control there is."""
        self._progress_at = time.monotonic()
        self._request(self._digest, len(self._data))

    def _turn(self) -> float:
        now = time.monotonic()
        if now >= self._beat_at:
            if self._fetching and now - self._progress_at > self._timeout_s:  # lost with a connection
                self._ask()
            else:
                self._request("", 0)
        return self._beat_at - time.monotonic()

    def _request(self, digest: str, offset: int) -> None:
        posted = self._post(encode({"kind": "pld.request.1", "digest": digest, "offset": offset}))
        self._beat_at = time.monotonic() + (self._heartbeat_s if posted else min(RETRY_S, self._heartbeat_s))

    def _finish(self) -> None:
        with self._arrived:
            self._arrived.notify_all()


def _arrays(tree: Any, path: str = "weights") -> dict[str, Any]:
    """Nested dictionaries with every leaf an array."""
    if not isinstance(tree, Mapping):
        raise LinkError(f"{path} must be a dictionary of arrays; given a {type(tree).__name__}.")
    arrays: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            arrays[key] = _arrays(value, f"{path}/{key}")
        elif hasattr(value, "__array__"):
            arrays[key] = np.asarray(value)
        else:
            raise LinkError(f"{path}/{key} must be an array; given a {type(value).__name__}.")
    return arrays
