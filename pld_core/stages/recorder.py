"""Collects the ticks of one running episode and turns them into an Episode."""

from __future__ import annotations

import numpy as np

from pld_core.control import Tick
from pld_core.interfaces import Environment
from pld_core.types import BASE_TICK, Episode, EpisodeSpec, Observation, TimeStep

Row = tuple[Observation, Tick]


class EpisodeRecorder:
    """One lane's growing episode. ``see`` before every tick, ``act`` after every step."""

    def __init__(self, spec: EpisodeSpec) -> None:
        self.spec = spec
        self._observations: list[Observation] = []
        self._ticks: list[Tick] = []
        self._rewards: list[float] = []
        self._last: TimeStep | None = None
        self._success = False
        self._environment_success = False

    @property
    def finished(self) -> bool:
        """True once the last step was seen; only the closing row is missing then."""
        return self._last is not None

    def see(self, observation: Observation, tick: Tick) -> None:
        self._observations.append(observation)
        self._ticks.append(tick)

    def act(self, step: TimeStep, reward: float, success: bool) -> None:
        self._rewards.append(reward)
        self._success |= success
        self._environment_success |= step.success
        if step.last or success:
            self._last = step

    def episode(self, policy_version: str) -> Episode:
        """The whole episode; call once the observation after the last step was seen."""
        if self._last is None or len(self._ticks) != len(self._rewards) + 1:
            raise RuntimeError("An episode was closed before its last observation was recorded.")
        return self._assemble(policy_version, self._last.terminated or self._success, self._success)

    def void(self, policy_version: str, blank: Row) -> Episode:
        """All steps up to a fault, never a success; ``blank`` closes it where nothing valid was seen."""
        if len(self._ticks) == len(self._rewards):
            self.see(*blank)
        return self._assemble(policy_version, terminated=False, success=False, voided=True)

    def _assemble(self, policy_version: str, terminated: bool, success: bool, voided: bool = False) -> Episode:
        cameras = self._observations[0].images if self.spec.record_images else {}
        done = self._ticks[:-1]
        return Episode(
            spec=self.spec,
            instruction=self._observations[0].instruction,
            proprio=np.stack([o.proprio for o in self._observations]),
            state=np.stack([t.state for t in self._ticks]),
            images={name: np.stack([o.images[name] for o in self._observations]) for name in cameras},
            base_action=np.stack([t.base_action for t in self._ticks]),
            residual=np.stack([t.residual for t in self._ticks])[:-1],
            action=np.stack([t.action for t in self._ticks])[:-1],
            reward=np.asarray(self._rewards, np.float32),
            source=np.asarray([t.source for t in done], np.uint8),
            intervention=np.zeros(len(done), bool),
            terminated=terminated,
            truncated=not terminated,
            success=success,
            policy_version=policy_version,
            voided=voided,
            environment_success=self._environment_success,
        )


def blank_row(environment: Environment, state_dim: int) -> Row:
    """What stands in an episode where nothing valid was seen: NaN everywhere, and black frames."""
    spec = environment.observation_spec
    proprio, state, action = (
        np.full(size, np.nan, np.float32) for size in (spec.proprio_dim, state_dim, environment.action_spec.dim)
    )
    frames = {name: np.zeros(shape, np.uint8) for name, shape in spec.cameras.items()}
    return Observation(frames, proprio, environment.instruction), Tick(state, action, action, action, BASE_TICK)
