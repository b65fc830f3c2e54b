"""Which entry of which chunk is the base action of a tick."""

from __future__ import annotations

import numpy as np

from pld_core.types import ActionChunk


class ChunkCursor:
    """Walks through the base policy's chunks, one entry a tick.

    A fresh chunk is adopted when the present one has served ``replan_every`` ticks. If none
    arrives, the rest of the old chunk is executed, then a hold: zero motion, last gripper command.
    gripper: the entry of the action that commands one, or None.
    """

    def __init__(self, replan_every: int, action_dim: int, gripper: int | None = None) -> None:
        self._replan_every = replan_every
        self._action_dim = action_dim
        self._gripper = gripper
        self.reset()

    def reset(self) -> None:
        self._actions: np.ndarray | None = None
        self._index = 0

    @property
    def wants_chunk(self) -> bool:
        return self._actions is None or self._index >= min(self._replan_every, len(self._actions))

    def offer(self, chunk: ActionChunk) -> None:
        """Adopt a fresh chunk if it is time to replan; ignore it otherwise."""
        if self.wants_chunk:
            self._actions, self._index = chunk.actions, 0

    def next(self) -> np.ndarray:
        """The base action of this tick, float32 ``[A]``; advances by one tick."""
        action = self._entry(self._index)
        self._index += 1
        return action

    def plan(self, horizon: int) -> np.ndarray:
        """What the base means to do from this tick on, float32 ``[horizon, A]``; does not advance."""
        return np.stack([self._entry(self._index + k) for k in range(horizon)])

    def _entry(self, index: int) -> np.ndarray:
        if self._actions is None:
            return np.zeros(self._action_dim, np.float32)
        if index < len(self._actions):
            return self._actions[index]
        hold = np.zeros_like(self._actions[-1])
        if self._gripper is not None:
            hold[self._gripper] = self._actions[-1, self._gripper]
        return hold
