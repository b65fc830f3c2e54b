"""What a user may bring: environments, policies, rewards, robots, runners. All are Protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pld_core.types import (
    ActionChunk,
    ActionSpec,
    Episode,
    EpisodeSpec,
    Frame,
    Observation,
    ObservationSpec,
    RobotState,
    TimeStep,
)


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
class ConcurrentEnvironment(Environment, Protocol):
    """One whose ticks run elsewhere: several can be under way at once."""

    def begin_step(self, action: np.ndarray) -> Callable[[], TimeStep]:
        """As ``step``, in two halves: the tick is set going, the function that comes back waits for its end.

        Either half raises what ``step`` would. Call it before anything else is asked of this environment.
        """
        ...


def begin_step(environment: Environment, action: np.ndarray) -> Callable[[], TimeStep]:
    """``ConcurrentEnvironment.begin_step`` of any environment; others take the whole step when waited for."""
    begin = getattr(environment, "begin_step", None)
    return begin(action) if begin else partial(environment.step, action)


def set_pictures(environment: Environment, image_every: int, simplified: bool = False) -> None:
    """How often pictures are drawn, from now on, and how truly, from the next reset on; for environments that leave it
    open."""
    for name, value in (("image_every", image_every), ("simplified", simplified)):
        if hasattr(environment, name):
            setattr(environment, name, value)


@runtime_checkable
class Oracle(Protocol):
    """A scripted expert with privileged state, bound to one environment."""

    def reset(self) -> None: ...

    def act(self) -> np.ndarray:
        """The expert's action for the environment's present state, float32 ``[A]``."""
        ...


@runtime_checkable
class SimulatedEnvironment(Environment, Protocol):
    """Extras that only a simulator can offer.

    renders_cameras: while False, ``reset`` and ``step`` deliver observations without images and spend
    nothing on rendering.
    Optional: ``image_every`` ticks that a picture serves before the next is taken, counted from the reset;
    ``simplified``, whether pictures are drawn faster and less truly from the next reset on.
    """

    renders_cameras: bool

    def oracle(self) -> Oracle: ...

    def grounding(self) -> np.ndarray:
        """Privileged pose error from tool to target, float32 ``[G]``, for pre-training and diagnosis.

        ``[dx, dy, dz]`` in centimetres (base frame), ``[sin yaw, cos yaw]`` of the yaw error.
        """
        ...

    def render(self, height: int, width: int) -> np.ndarray:
        """A picture for people, uint8 ``[height, width, 3]``, in the ``visual`` quality."""
        ...

    def snapshot(self) -> np.ndarray:
        """All that the cameras' pictures depend on at present, float64 ``[N]``."""
        ...

    def picture_of(self, snapshot: np.ndarray) -> Mapping[str, np.ndarray]:
        """``{camera: uint8 [height, width, 3]}``, bit for bit the images of the observation at that time.

        The snapshot may come from another environment of the same task that draws alike, also in another process; the
        episode of this one is not touched.
        """
        ...

    def joint_state(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Names and positions, float64 ``[J]``, of the arm's joints [rad] and then its fingers' [m]."""
        ...

    def tool_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Position ``[3]`` in metres and quaternion ``[4]`` (w, x, y, z) of the tool in the base frame."""
        ...

    def hold_action(self) -> np.ndarray:
        """The action that keeps the arm where it is: zero motion, last gripper command; float32 ``[A]``."""
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
class SamplingPolicy(BasePolicy, Protocol):
    """A policy with a distribution of chunks behind the one that ``infer`` answers."""

    def sample(self, observation: Observation, count: int, seed: int) -> list[ActionChunk]:
        """``count`` chunks drawn independently, in [-1, 1]; the same for the same seed."""
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
    """Judges a time step. Returns ``(reward, success)``; ``reset`` is called at each episode start.

    A model that judges by what it sees, not by ``step.success``, has an attribute ``sees_for_itself = True``.
    Its episodes end when it says so, or at the time limit: an environment with an attribute
    ``stop_at_success`` is told to run on, so that its knowledge does not show in when an episode ends.

    Optional: ``clear_latch()`` forgets the verdicts so far, of a model whose success stays until ``reset``;
    ``watch(observation)`` shows a tick to a model that is not asked about it but remembers what it saw.
    """

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


@runtime_checkable
class RobotDriver(Protocol):
    """An arm behind its vendor library. ``spec`` is readable while disconnected.

    ``next_state`` has a thread of its own; every other method may be called from any thread at any time.
    """

    @property
    def limited(self) -> Mapping[str, int]:
        """How many commands each safety limit has shortened so far."""
        ...

    def spec(self) -> ActionSpec: ...

    def connect(self) -> None:
        """Raises RobotUnavailableError where no arm answers."""
        ...

    def reset(self, seed: int) -> None:
        """A simulator makes the scene of this seed; a real arm goes to its start pose.

        States from then on count it in their ``resets``.
        """
        ...

    def next_state(self, timeout_s: float) -> RobotState | None:
        """Blocks until there is a state that was not given yet; None after the timeout, or when closed meanwhile.

        A real arm has a new one in every period of its state rate.
        """
        ...

    def command(self, delta: np.ndarray, gripper: float) -> np.ndarray:
        """Move by one end-effector delta; returns the action that was actually sent, float32 ``[7]``.

        delta: float32 ``[6]`` in units of ``spec`` (1 is ``translation_m`` or ``rotation_rad``); gripper:
        from -1 (closed) to 1 (open). Raises ContractError on anything else and RobotError while
        stopped; nothing is sent then.
        """
        ...

    def hold(self) -> None:
        """Stop moving, keep the grip; the next command moves again. Ends a ``reset`` that runs, which raises."""
        ...

    def stop(self) -> None:
        """Emergency stop: hold, and refuse commands until ``recover``."""
        ...

    def recover(self) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class CameraDriver(Protocol):
    """A camera behind its vendor library."""

    def open(self) -> None: ...

    def read(self, timeout_s: float) -> Frame | None:
        """Blocks until there is a frame that was not given yet; None after the timeout."""
        ...

    def close(self) -> None: ...


EnvironmentFactory = Callable[[int], Sequence[Environment]]
"""``factory(lanes)`` makes that many independent environments (they may share models and renderers)."""
