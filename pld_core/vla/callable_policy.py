"""Any Python callable as a base policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pld_core.errors import ContractError, NonFiniteError
from pld_core.types import ActionChunk, Observation

Act = Callable[[Observation], np.ndarray]


class CallablePolicy:
    """Wraps ``act(observation) -> action [A]`` or ``-> chunk [H, A]``; implements interfaces.BasePolicy.

    horizon: the ``H`` that ``act`` answers; version: stored with every episode, so give a new one
    when the behaviour changes.
    """

    feature_dim = 0

    def __init__(self, act: Act, horizon: int = 1, version: str = "callable") -> None:
        self._act = act
        self.action_horizon = horizon
        self.version = version

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        return [self._chunk(observation) for observation in observations]

    def _chunk(self, observation: Observation) -> ActionChunk:
        actions = np.atleast_2d(np.asarray(self._act(observation), np.float32))
        if actions.ndim != 2 or len(actions) != self.action_horizon:
            raise ContractError(
                f"The policy answered shape {actions.shape}; with horizon={self.action_horizon} it must answer "
                f"[{self.action_horizon}, A]" + (" or [A]." if self.action_horizon == 1 else ".")
            )
        if not np.isfinite(actions).all():
            raise NonFiniteError(f"The policy answered NaN or infinity: {actions.tolist()}.")
        return ActionChunk(np.clip(actions, -1, 1), np.zeros(0, np.float32), self.version)
