"""Serves the base policy: answers observations with action chunks."""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import rclpy
from pld_msgs.msg import ActionChunk as ActionChunkMsg
from pld_msgs.msg import ChunkRequest
from pld_msgs.srv import LoadPolicy

from pld_core import bring
from pld_core.errors import PLDError, PolicyUnavailableError
from pld_core.interfaces import BasePolicy
from pld_ros import topics
from pld_ros.convert import chunk_msg, stamps_of
from pld_ros.inputs import subscribe
from pld_ros.node import SENSE_PRIORITY, PldNode, run_node

_REMEMBERED = 32  # chunks kept for requests that come after a prefetch
_POLL_S = 0.2
SLOW_S = 5.0  # for one chunk; the server of a policy that others serve may be gone

Key = tuple[tuple[str, int], ...]


class VlaServer(PldNode):
    """Computes on the main thread, hears on another.

    prefetch: compute a chunk for every new observation before anyone asks, so that the answer to a
    request is there already; a slow policy skips observations and takes the newest.
    """

    def __init__(self) -> None:
        super().__init__("vla_server")
        self._prefetch = self.setting("prefetch", True)
        self._wait_s = self.setting("wait_ms", 20.0) / 1e3
        self._work = threading.Condition()
        self._requests: list[ChunkRequest] = []
        self._retired: list[BasePolicy] = []  # to be closed by who computes with them
        self._loads: list[tuple[str, threading.Event, LoadPolicy.Response]] = []
        self._chunks: OrderedDict[Key, ActionChunkMsg] = OrderedDict()
        self._new_data = False
        self._instruction = self.task_config.instruction
        self._latency_ms = self._age_ms = 0.0
        self._asked_at: float | None = None  # of the answer that is being computed, monotonic
        self._fault = ""  # of the last one, while nobody computes
        self._policy = self._loaded(self.setting("policy", "compact"))
        self._buffer = subscribe(self, self._arrived)
        self._answers = self.create_publisher(ActionChunkMsg, topics.CHUNK, topics.OBSERVATION)
        self.create_subscription(ChunkRequest, topics.CHUNK_REQUEST, self._asked, topics.OBSERVATION)
        self.create_service(LoadPolicy, topics.LOAD_POLICY, self._load)

    def _loaded(self, name: str) -> BasePolicy:
        policy = bring.base_policy(name)
        self.set_ready(version=policy.version)
        return policy

    def lacks(self) -> str:
        """No episode is to begin while nobody computes its chunks."""
        asked_at = self._asked_at
        if asked_at is not None and time.monotonic() - asked_at > SLOW_S:
            return f"the policy has computed one chunk for more than {SLOW_S:.0f} s"
        return super().lacks() or self._fault

    def close(self) -> None:
        _close(self._policy)

    # -- heard on the callbacks' thread ----------------------------------------------------------

    def _arrived(self) -> None:
        if self._prefetch:
            with self._work:
                self._new_data = True
                self._work.notify()

    def _asked(self, request: ChunkRequest) -> None:
        self.rates.count("requests")
        with self._work:
            self._requests.append(request)
            self._work.notify()

    def _load(self, request: LoadPolicy.Request, response: LoadPolicy.Response) -> LoadPolicy.Response:
        try:
            policy = bring.base_policy(request.policy)
        except PLDError as error:
            response.message = str(error)
            return response
        with self._work:
            self._retired.append(self._policy)
            self._policy = policy
            self._chunks.clear()
        self.set_ready(version=policy.version)
        response.ok, response.policy_version = True, policy.version
        response.action_horizon, response.feature_dim = policy.action_horizon, policy.feature_dim
        return response

    # -- computed on the main thread -------------------------------------------------------------

    def work(self) -> None:
        """Answer requests, and between them compute ahead."""
        last: Key = ()
        while rclpy.ok():
            with self._work:
                self._work.wait_for(lambda: self._requests or self._new_data, _POLL_S)
                requests, self._requests = self._requests, []
                retired, self._retired = self._retired, []
                self._new_data = False
            for policy in retired:
                _close(policy)
            for request in requests[-1:]:  # the controller has gone on without answers to the others
                self._answer(request)
            newest = self._buffer.newest() if self._prefetch else None
            if newest is not None and tuple(newest.items()) != last:
                last = tuple(newest.items())
                self._chunk(newest, self._instruction)

    def _answer(self, request: ChunkRequest) -> None:
        if request.policy_version != self._policy.version:
            self.rates.count("refused")  # the asker sees in `health` which version is served
            return
        if request.instruction != self._instruction:
            self._instruction = request.instruction
            self._chunks.clear()
        stamps = stamps_of(request)
        known = self._chunks.get(tuple(stamps.items()))
        if known is not None and known.policy_version == request.policy_version:
            self.rates.count("prefetched")
            self._answers.publish(known)  # again: whoever asks has missed it
            return
        found = self._buffer.wait_for(stamps, self._wait_s)
        if found is not None:
            self._chunk(found, request.instruction)

    def _chunk(self, stamps: dict[str, int], instruction: str) -> None:
        observation = self._buffer.observation(stamps, instruction)
        policy = self._policy
        self._asked_at = began = time.monotonic()
        try:
            chunk = policy.infer([observation])[0]
            self._fault = ""
        except PLDError as error:
            self.rates.count("faults")
            # Only where the next observation is tried by itself may this keep an episode from beginning.
            self._fault = str(error) if self._prefetch and isinstance(error, PolicyUnavailableError) else ""
            self.get_logger().error(f"the policy failed: {error}", throttle_duration_sec=1.0)
            return
        finally:
            self._asked_at = None
        self._latency_ms = 1e3 * (time.monotonic() - began)
        self._age_ms = (self.now_ns() - max(stamps.values())) / 1e6
        message = chunk_msg(chunk, stamps, self._latency_ms)
        self._answers.publish(message)
        self.rates.count("chunks")
        self._chunks[tuple(stamps.items())] = message
        while len(self._chunks) > _REMEMBERED:
            self._chunks.popitem(last=False)

    def diagnostics(self) -> dict[str, Any]:
        times = getattr(self._policy, "times", None)  # of a policy that another process serves
        remote = {} if times is None else {f"remote_{name}": value for name, value in times.summary().items()}
        ages = {"inference_ms": self._latency_ms, "observation_age_ms": self._age_ms}
        return {**ages, "policy_version": self._policy.version, **remote}


def _close(policy: BasePolicy) -> None:
    """The connections of a policy that another process serves."""
    close = getattr(policy, "close", None)
    if close is not None:
        close()


def main(args: Sequence[str] | None = None) -> int:
    return run_node(VlaServer, args, SENSE_PRIORITY)


if __name__ == "__main__":
    sys.exit(main())
