"""The residual actor of the controller, swapped between ticks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pld_core.link import Weights, WeightsSubscriber
from pld_core.rl.actor import LearnerActor
from pld_core.rl.snapshot import restore

LATEST = "latest"


class WeightsSlot:
    """Holds one actor. Without a learner it keeps the last one."""

    def __init__(self, address: str) -> None:
        self._subscriber = WeightsSubscriber(address)
        self._actor: LearnerActor | None = None
        self._wanted = ""
        self._warm: set[str] = set()
        self.version = ""

    def take(self, version: str) -> bool:
        """Make ``version`` the present actor if it is there: a hash, ``latest``, or empty for none."""
        self._wanted = version
        if version in ("", self.version):
            return True
        weights = self._subscriber.latest()
        if weights is None or (version != LATEST and weights.version != version):
            return False
        self._swap(weights)
        return True

    def current(self) -> tuple[LearnerActor | None, str]:
        """The actor of this tick; with ``latest`` newer weights are taken over here."""
        if self._wanted == LATEST:
            weights = self._subscriber.latest()
            if weights is not None and weights.version != self.version:
                self._swap(weights)
        return self._actor, self.version

    def _swap(self, weights: Weights) -> None:
        self._actor, self.version = restore(weights.arrays, weights.metadata), weights.version

    def warm_up(self, state_dim: int, action_dim: int, cameras: Mapping[str, tuple[int, int, int]]) -> None:
        """Compile what acting needs, before the first tick has to be in time."""
        if self._actor is None or not self._wanted:
            return
        kind = repr((self._actor.learner.config, state_dim))
        if kind in self._warm:
            return
        images = {name: np.zeros((1, *shape), np.uint8) for name, shape in cameras.items()}
        state, action = np.zeros((1, state_dim), np.float32), np.zeros((1, action_dim), np.float32)
        for seeds in (None, np.zeros(1, np.uint32)):
            self._actor.act(state, action, images, seeds)
        self._warm.add(kind)

    @property
    def learner_age_s(self) -> float:
        return self._subscriber.peer_age_s

    def close(self) -> None:
        self._subscriber.close()
