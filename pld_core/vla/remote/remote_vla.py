"""Any policy behind openpi's websocket protocol as a base policy."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pld_core.errors import ConfigError, ContractError
from pld_core.types import ActionChunk, Observation
from pld_core.vla.remote.connection import Connection, PolicyServerError
from pld_core.vla.remote.key_map import Keys, OwnKeys, hashed, numbers
from pld_core.vla.remote.wire import pack

STATEFUL = "stateful"  # in a server's metadata: its answers depend on the connection's earlier requests
_REMEMBERED = 1000  # requests that the times are taken from


class RemoteVLA:
    """Asks a server for every chunk; implements interfaces.BasePolicy.

    Each observation of a call goes over a connection of its own, all at once, so that a server can batch them.

    keys: how the server names what it wants; action_horizon, version: where its metadata do not say them. The version
    of a server that says none is a hash of its metadata and keys: give one that changes with the weights.
    deadline_s: for a whole ``infer``, reconnections included; connect_s: for the first connection.
    Raises PolicyUnavailableError where it passes, PolicyServerError where the server answers with an error or has
    another policy than before.
    """

    def __init__(
        self,
        url: str,
        keys: Keys | None = None,
        *,
        action_horizon: int | None = None,
        version: str | None = None,
        deadline_s: float = 30.0,
        connect_s: float = 60.0,
        api_key: str | None = None,
    ) -> None:
        self.url, self._keys = url, keys or OwnKeys()
        self._deadline_s = deadline_s
        self._headers = {"Authorization": f"Api-Key {api_key}"} if api_key else {}
        self._given_version, self.version = version, ""
        self._connections = [Connection(url, self._headers, self._check)]
        metadata = self._connections[0].metadata(time.monotonic() + connect_s)
        if metadata.get(STATEFUL):
            raise ConfigError(
                f"{url} serves a specialist, which remembers what each connection did before: no base policy. Serve "
                "the base it corrects, or VLA*."
            )
        self.version = self._version(metadata)
        self.action_horizon = _size(action_horizon or metadata.get("action_horizon"), "action_horizon", url)
        self.feature_dim = _size(metadata.get("feature_dim", 0), "feature_dim", url, least=0)
        self.times = RequestTimes()

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation, in their order."""
        began = time.monotonic()
        deadline = began + self._deadline_s
        while len(self._connections) < len(observations):
            self._connections.append(Connection(self.url, self._headers, self._check))
        asked = list(zip(self._connections, observations, strict=False))
        requests = [self._keys.request(observation) for observation in observations]
        try:
            for (connection, _), request in zip(asked, requests, strict=True):
                connection.send(request, deadline)
            return [self._chunk(connection.receive(deadline), seen, began) for connection, seen in asked]
        except BaseException:
            for connection, _ in asked:  # the others' answers are on their way: nobody may take them for later ones
                connection.close()
            raise

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _chunk(self, answer: Mapping[str, Any], observation: Observation, began: float) -> ActionChunk:
        actions = self._keys.actions(answer)
        if len(actions) != self.action_horizon:
            raise ContractError(
                f"{self.url} answered {len(actions)} actions; its action_horizon is {self.action_horizon}. Correct "
                "action_horizon in the policy's settings."
            )
        features = numbers("features", answer.get("features")) if self.feature_dim else np.zeros(0, np.float32)
        self.times.add(1e3 * (time.monotonic() - began), answer.get("server_timing"))
        return ActionChunk(actions, features, self.version, max(observation.stamp_ns.values(), default=0))

    def _check(self, metadata: Mapping[str, Any]) -> None:
        """A server that was started again must have the same policy: episodes hold that one's actions."""
        if self.version and self._version(metadata) != self.version:
            raise PolicyServerError(
                f"{self.url} now serves version {self._version(metadata)}, before it was {self.version}. Serve that "
                "one again, or begin a new run."
            )

    def _version(self, metadata: Mapping[str, Any]) -> str:
        said = self._given_version or metadata.get("version")
        return str(said) if said else hashed(self._keys, pack(metadata))


class RequestTimes:
    """How long the last answers took, in milliseconds."""

    def __init__(self) -> None:
        self._total: deque[float] = deque(maxlen=_REMEMBERED)
        self._server: deque[float] = deque(maxlen=_REMEMBERED)

    def add(self, total_ms: float, server_timing: Any) -> None:
        self._total.append(total_ms)
        if isinstance(server_timing, Mapping) and isinstance(inferred := server_timing.get("infer_ms"), (int, float)):
            self._server.append(float(inferred))

    def summary(self) -> dict[str, float]:
        """``{total_p50_ms, total_p99_ms, server_p50_ms, server_p99_ms}`` of what is known."""
        rows: dict[str, float] = {}
        for name, times in (("total", self._total), ("server", self._server)):
            for quantile in (50, 99) if times else ():
                rows[f"{name}_p{quantile}_ms"] = round(float(np.percentile(times, quantile)), 2)
        return rows


def _size(given: Any, name: str, url: str, least: int = 1) -> int:
    if given is None:
        raise ConfigError(f"{url} does not say its {name}; give it in the policy's settings.")
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        raise ConfigError(f"{name} of {url} is {given!r}; valid is an integer of at least {least}.")
    return given
