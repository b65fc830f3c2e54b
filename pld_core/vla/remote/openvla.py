"""Policies behind the REST servers of OpenVLA and OpenVLA-OFT (their ``vla-scripts/deploy.py``)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pld_core.errors import ConfigError, ContractError
from pld_core.types import ActionChunk, Observation
from pld_core.vla.remote.connection import PolicyServerError
from pld_core.vla.remote.image_key import described
from pld_core.vla.remote.json_arrays import dumps, loads
from pld_core.vla.remote.key_map import KeyMap, hashed
from pld_core.vla.remote.remote_vla import RequestTimes
from pld_core.vla.remote.rest import Rest, excerpt
from pld_core.vla.remote.wire import WireError

PATH = "/act"
FAILED = "error"  # what both servers answer to any request that they cannot serve, with status 200


class OpenVLA:
    """Asks a server for every chunk; implements interfaces.BasePolicy.

    One observation at a time: these servers answer several in as many threads of one network, which is no faster.

    keys: how the server names what it wants; its action is what the server answers, one ``[A]`` or a list of them.
    version: of the weights; the servers do not say it: change it with them. Without, a hash of the keys.
    deadline_s: for one observation, further attempts included; connect_s: until somebody listens.
    Raises PolicyUnavailableError where it passes, PolicyServerError where the server says that it failed.
    """

    feature_dim = 0

    def __init__(
        self,
        url: str,
        keys: KeyMap,
        *,
        action_horizon: int,
        version: str | None = None,
        deadline_s: float = 30.0,
        connect_s: float = 60.0,
        api_key: str | None = None,
    ) -> None:
        if action_horizon < 1:
            raise ConfigError(f"action_horizon is {action_horizon}; valid is at least 1.")
        self._keys, self._deadline_s = keys, deadline_s
        self._rest = Rest(url, PATH, {"Authorization": f"Bearer {api_key}"} if api_key else {})
        self.url, self.action_horizon = self._rest.url, action_horizon
        self.version = version or hashed(keys)
        self.times = RequestTimes()
        self._rest.wait(time.monotonic() + connect_s)

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation, in their order."""
        requests = [self._keys.request(observation) for observation in observations]
        return [self._chunk(*pair) for pair in zip(requests, observations, strict=True)]

    def close(self) -> None:
        """Nothing is kept open."""

    def _chunk(self, request: Mapping[str, Any], observation: Observation) -> ActionChunk:
        began = time.monotonic()
        answer = self._asked(request, began + self._deadline_s)
        actions = self._keys.actions({self._keys.action: answer})
        if len(actions) != self.action_horizon:
            raise ContractError(
                f"{self.url} answered {len(actions)} actions; its action_horizon is {self.action_horizon}. Correct "
                "action_horizon in the policy's settings."
            )
        self.times.add(1e3 * (time.monotonic() - began), None)
        stamp_ns = max(observation.stamp_ns.values(), default=0)
        return ActionChunk(actions, np.zeros(0, np.float32), self.version, stamp_ns)

    def _asked(self, request: Mapping[str, Any], deadline: float) -> Any:
        said = self._rest.post(dumps(request), deadline)
        try:
            answer = loads(said)
        except WireError as error:
            raise WireError(
                f"{self.url} answered {excerpt(said)}, which are no actions in JSON. Is it OpenVLA's deploy.py?"
            ) from error
        if isinstance(answer, str) and answer == FAILED:  # an array would compare entry by entry
            raise PolicyServerError(
                f"{self.url} answered 'error', and says why only in its own log. It got {_listed(request)}: keys that "
                "it does not expect, or an unnorm_key that its checkpoint has no statistics of?"
            )
        return answer


def _listed(request: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {described(value)}" for key, value in request.items())
