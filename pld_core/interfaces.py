"""What a user may bring: environments, policies, rewards, robots, runners. All are Protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pld_core.types import ActionChunk, ActionSpec, Episode, EpisodeSpec, Observation, ObservationSpec, TimeStep


@runtime_checkable
class Environment(Protocol):
    """One task with one robot, simulated or adapted. Contract suite: ``tests/contract``."""

    task: str
    instruction: str
    max_steps: int
    action_spec: ActionSpec
    observation_spec: ObservationSpec

    def reset(self, seed: int) -> TimeStep:
        """Start a new episode; the same seed gives the same first observation."""
        ...

    def step(self, action: np.ndarray) -> TimeStep:
        """Execute one action, float32 ``[A]`` in [-1, 1]; raises ContractError on anything else."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Oracle(Protocol):
    """A scripted expert with privileged state, bound to one environment."""

    def reset(self) -> None: ...

    def act(self) -> np.ndarray:
        """The expert's action for the environment's present state, float32 ``[A]``."""
        ...


@runtime_checkable
class SimulatedEnvironment(Environment, Protocol):
    """Extras that only a simulator can offer."""

    def oracle(self) -> Oracle: ...

    def grounding(self) -> np.ndarray:
        """Privileged pose error from tool to target, float32 ``[G]``, for pre-training and diagnosis.

        ``[dx, dy, dz]`` in centimetres (base frame), ``[sin yaw, cos yaw]`` of the yaw error.
        """
        ...

    def render(self, height: int, width: int) -> np.ndarray:
        """A picture for people, uint8 ``[height, width, 3]``, in the ``visual`` quality."""
        ...


@runtime_checkable
class BasePolicy(Protocol):
    """A frozen policy that answers observations with action chunks."""

    version: str  # hash of the weights; stored with every episode
    action_horizon: int
    feature_dim: int

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation; deterministic, and independent of the other observations."""
        ...


@runtime_checkable
class TrainableVLA(BasePolicy, Protocol):
    """A policy that can be fine-tuned on episodes."""

    def sft(self, episodes: Sequence[Episode], **options: Any) -> TrainableVLA:
        """Supervised fine-tuning; returns a new policy, this one stays as it is.

        options: those of ``CompactVLA.sft``; ignore what does not apply.
        """
        ...

    def save(self, path: Path) -> None: ...

    @classmethod
    def load(cls, path: Path) -> TrainableVLA:
        """What ``save`` wrote."""
        ...


class RewardModel(Protocol):
    """Judges a time step. Returns ``(reward, success)``; ``reset`` is called at each episode start."""

    def reset(self) -> None: ...

    def score(self, step: TimeStep) -> tuple[float, bool]: ...


class ResidualActor(Protocol):
    """Proposes residuals for a batch of lanes."""

    def act(
        self, state: np.ndarray, base_action: np.ndarray, images: Mapping[str, np.ndarray], seeds: np.ndarray | None
    ) -> np.ndarray:
        """Residuals float32 ``[L, A]`` in [-1, 1].

        state ``[L, S]``, base_action ``[L, A]``, images ``{camera: uint8 [L, h, w, 3]}`` (empty with
        the ``features`` encoder), seeds ``uint32 [L]`` to sample with, or None for the mode.
        """
        ...


class EpisodeRunner(Protocol):
    """The only thing a stage knows of the world."""

    def run(self, specs: Sequence[EpisodeSpec], actor: ResidualActor | None = None) -> Iterator[Episode]:
        """Yield one episode per spec, in the order of ``specs``."""
        ...


class RobotDriver(Protocol):
    """An arm behind its vendor library. ``spec`` is readable while disconnected."""

    def spec(self) -> ActionSpec: ...

    def connect(self) -> None: ...

    def command(self, delta: np.ndarray, gripper: float) -> np.ndarray:
        """Send one end-effector delta; returns the command actually sent."""
        ...

    def hold(self) -> None: ...

    def close(self) -> None: ...


EnvironmentFactory = Callable[[int], Sequence[Environment]]
"""``factory(lanes)`` makes that many independent environments (they may share models and renderers)."""
