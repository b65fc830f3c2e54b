"""What a server can serve: a base policy, or base and residual specialist together."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pld_core.control import ResidualController
from pld_core.errors import ContractError, PolicyUnavailableError
from pld_core.interfaces import BasePolicy, ResidualActor
from pld_core.types import ActionChunk, EpisodeSpec, Observation
from pld_core.vla.remote.key_map import Sizes
from pld_core.vla.remote.remote_vla import STATEFUL

Question = tuple[int, Observation]  # the client's lane, and what it sees


class Backend(Protocol):
    """lanes: clients at once; cameras: what its observations must hold, as far as that is known."""

    lanes: int
    cameras: Sizes

    def metadata(self) -> dict[str, Any]: ...

    def reset(self, lane: int) -> None:
        """The client begins an episode."""
        ...

    def answer(self, questions: Sequence[Question]) -> Sequence[ActionChunk | Exception]: ...


class PolicyBackend:
    """A base policy: its chunks depend on the observation alone."""

    def __init__(self, policy: BasePolicy, lanes: int = 256) -> None:
        self.policy, self.lanes = policy, lanes
        self.cameras: Sizes = dict(getattr(policy, "cameras", {}))

    def metadata(self) -> dict[str, Any]:
        policy = self.policy
        return _metadata(policy.version, policy.action_horizon, policy.feature_dim, self.cameras)

    def reset(self, lane: int) -> None:
        pass

    def answer(self, questions: Sequence[Question]) -> Sequence[ActionChunk | Exception]:
        """Where the policy refuses a batch, each is asked alone: by its contract no answer changes with that."""
        try:
            chunks = self.policy.infer([seen for _, seen in questions])
            if len(chunks) != len(questions):
                raise ContractError(f"The policy answered {len(chunks)} chunks for {len(questions)} observations.")
            return chunks
        except PolicyUnavailableError as fault:
            return [fault] * len(questions)
        except Exception as fault:  # a policy that was brought may raise anything for the one observation it dislikes
            return [fault] if len(questions) == 1 else [self.answer([question])[0] for question in questions]


class SpecialistBackend:
    """Base, residual and limits of one tick: chunks of one action, to be asked for at every tick.

    xi: scale of the residual; cameras: of the observations that it learned with. Each client has a lane of the
    controller, which keeps the base's plan between its ticks.
    """

    def __init__(
        self,
        controller: ResidualController,
        actor: ResidualActor,
        xi: float,
        version: str,
        lanes: int,
        cameras: Sizes | None = None,
    ) -> None:
        self.lanes = lanes
        self.cameras: Sizes = dict(cameras or {})
        self._controller, self._actor, self._xi, self._version = controller, actor, xi, version
        self._begun: set[int] = set()
        self._lock = threading.Lock()  # clients come and go on another thread than the one that computes

    def metadata(self) -> dict[str, Any]:
        return {**_metadata(self._version, 1, 0, self.cameras), STATEFUL: True}

    def reset(self, lane: int) -> None:
        with self._lock:
            self._begun.discard(lane)

    def answer(self, questions: Sequence[Question]) -> Sequence[ActionChunk | Exception]:
        lanes = [lane for lane, _ in questions]
        with self._lock:
            for lane in {*lanes} - self._begun:
                self._controller.reset(lane, EpisodeSpec("served", 0, "evaluate", t_base=0, xi=self._xi))
            self._begun.update(lanes)
        ticks = self._controller.attempt(lanes, [self._needed(seen) for _, seen in questions], self._actor)
        nothing = np.zeros(0, np.float32)
        return [t if isinstance(t, Exception) else ActionChunk(t.action[None], nothing, self._version) for t in ticks]

    def _needed(self, seen: Observation) -> Observation:
        """Without pictures that nobody asked for: the residual sees those of all lanes as one array."""
        images = {name: image for name, image in seen.images.items() if name in self.cameras}
        return dataclasses.replace(seen, images=images)


def specialist_version(base_version: str, checkpoint: bytes) -> str:
    return hashlib.sha256(base_version.encode() + checkpoint).hexdigest()[:12]


def _metadata(version: str, horizon: int, features: int, cameras: Sizes) -> dict[str, Any]:
    sizes: Mapping[str, list[int]] = {name: list(size) for name, size in cameras.items()}
    return {"version": version, "action_horizon": horizon, "feature_dim": features, "cameras": sizes}
