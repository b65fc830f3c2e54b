"""The base policy as the controller sees it: chunks that arrive from another process, in time or not."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pld_core.errors import ContractError, RobotUnavailableError
from pld_core.types import ActionChunk, Observation

_KEPT = 32
ASK_AGAIN_S = 1.0
Stamps = tuple[tuple[str, int], ...]


class ChunkClient:
    """Implements interfaces.BasePolicy on chunks that ``received`` is given.

    A chunk that answers exactly the observation is waited for, ``wait_s()`` at most. Without it the
    newest earlier chunk goes on from the entry that is due, and after its end the arm holds; after
    ``hold_ticks`` of that the episode is given up: ContractError.
    """

    def __init__(
        self,
        ask: Callable[[Observation, str], None],
        period_s: float,
        gripper: int | None,
        wait_s: Callable[[], float] = lambda: 0.02,
        hold_ticks: int = 20,
    ) -> None:
        self._ask, self._period_ns, self._gripper = ask, round(period_s * 1e9), gripper
        self._wait_s, self._hold_ticks = wait_s, hold_ticks
        self._chunks: OrderedDict[Stamps, ActionChunk] = OrderedDict()
        self._arrived = threading.Condition()
        self._begun_ns = -1
        self.version = ""
        self.action_horizon = self.feature_dim = 0
        self.late = 0  # ticks that an earlier chunk had to serve

    def received(self, stamps: Mapping[str, int], chunk: ActionChunk) -> None:
        """A chunk came; called from the callbacks' thread."""
        with self._arrived:
            self._chunks[tuple(stamps.items())] = chunk
            while len(self._chunks) > _KEPT:
                self._chunks.popitem(last=False)
            self._arrived.notify_all()

    def expect(self, version: str, observation: Observation, timeout_s: float) -> None:
        """Get ready for a policy: learn its sizes from its answer to ``observation``.

        Raises RobotUnavailableError if none comes.
        """
        self.version = version
        deadline = time.monotonic() + timeout_s
        chunk = self._exact(observation, min(ASK_AGAIN_S, timeout_s))
        while chunk is None and time.monotonic() < deadline:  # again: the first one may not have got there
            chunk = self._exact(observation, ASK_AGAIN_S)
        if chunk is None:
            raise RobotUnavailableError(
                f"No chunk of policy {version} within {timeout_s:.1f} s. Is the VLA server running, and does it serve "
                "that policy?"
            )
        self.action_horizon, self.feature_dim = len(chunk.actions), len(chunk.features)

    def begin(self, stamp_ns: int) -> None:
        """An episode begins with the observation of this stamp; until then the arm held, so older chunks are as new."""
        self._begun_ns = stamp_ns

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation; see the class."""
        return [self._exact(o, self._wait_s()) or self._earlier(o) for o in observations]

    def _exact(self, observation: Observation, timeout_s: float) -> ActionChunk | None:
        key = tuple(observation.stamp_ns.items())

        def mine() -> ActionChunk | None:
            chunk = self._chunks.get(key)
            return chunk if chunk is not None and chunk.policy_version == self.version else None

        with self._arrived:
            if mine() is None:
                self._ask(observation, self.version)
                self._arrived.wait_for(lambda: mine() is not None, timeout_s)
            return mine()

    def _earlier(self, observation: Observation) -> ActionChunk:
        """The newest chunk of the past, from the entry on that is due now."""
        now = max(observation.stamp_ns.values())
        with self._arrived:
            mine = [c for c in self._chunks.values() if c.policy_version == self.version and c.stamp_ns <= now]
        if not mine:
            raise ContractError("The VLA server has not answered yet, and there is no earlier chunk to go on with.")
        self.late += 1
        chunk = max(mine, key=lambda c: c.stamp_ns)
        elapsed = round((now - max(chunk.stamp_ns, self._begun_ns)) / self._period_ns)
        if elapsed >= len(chunk.actions) + self._hold_ticks:
            raise ContractError(
                f"The VLA server has been silent for {elapsed} ticks; the arm held for {self._hold_ticks} of them."
            )
        actions = np.zeros_like(chunk.actions)
        if self._gripper is not None:
            actions[:, self._gripper] = chunk.actions[-1, self._gripper]
        rest = chunk.actions[elapsed:]
        actions[: len(rest)] = rest
        return ActionChunk(actions, chunk.features, chunk.policy_version, chunk.stamp_ns)
