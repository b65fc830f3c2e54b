"""The data that flows between stages, controllers, environments and learners.

All classes are frozen; arrays in them are never written after construction.
Shapes: ``T`` ticks, ``H`` chunk length, ``A`` action size, ``P`` proprioception size,
``F`` policy features, ``S`` residual state, ``J`` joints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pld_core.errors import ContractError

Mode = Literal["base", "learn", "probe", "evaluate", "oracle"]
RobotMode = Literal["idle", "moving", "holding", "stopped", "fault"]

BASE_TICK = 0  # provenance of a tick: the base policy acted alone
RESIDUAL_TICK = 1  # base action plus residual
EXPERT_TICK = 2  # a scripted oracle or a human acted


@dataclass(frozen=True)
class ActionSpec:
    """What a unit of normalised action means.

    The default is an arm: delta xyz, delta rotation vector, gripper (+1 open, -1 closed). gripper:
    the entry that commands one (a state that is held, where the others are motions), or None.
    """

    dim: int = 7
    translation_m: float = 0.01  # metres per tick at |a| = 1
    rotation_rad: float = 0.08  # radians per tick at |a| = 1
    frame: str = "base"
    rate_hz: float = 20.0
    gripper: int | None = 6

    def __post_init__(self) -> None:
        if self.gripper is not None and not 0 <= self.gripper < self.dim:
            raise ContractError(
                f"gripper is entry {self.gripper} of {self.dim} actions; give gripper=None without one."
            )

    @property
    def rotation(self) -> tuple[int, ...]:
        """The entries of an arm's rotation vector; none where there is no gripper, or nothing but a position."""
        return (3, 4, 5) if self.gripper is not None and self.dim >= 7 else ()


@dataclass(frozen=True)
class ObservationSpec:
    """Names and sizes of what an environment delivers."""

    cameras: Mapping[str, tuple[int, int, int]]  # {camera: (height, width, 3)}, may be empty
    proprio_dim: int
    proprio_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observation:
    """One synchronised look at the world.

    images: ``{camera: uint8 [height, width, 3]}`` RGB; proprio: float32 ``[P]``;
    stamp_ns: time of capture per source (``"proprio"`` and each camera), simulated or monotonic.
    """

    images: Mapping[str, np.ndarray]
    proprio: np.ndarray
    instruction: str = ""
    stamp_ns: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TimeStep:
    """What an environment answers to ``reset`` and ``step``.

    ``terminated`` ends the task's value (success, or a failure that cannot be undone);
    ``truncated`` is the time limit only and must be bootstrapped through.
    """

    observation: Observation
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    success: bool = False

    @property
    def last(self) -> bool:
        return self.terminated or self.truncated


@dataclass(frozen=True)
class Frame:
    """One picture of one camera. stamp_ns: time of capture, ROS system time; image: uint8 ``[h, w, 3]`` RGB."""

    stamp_ns: int
    image: np.ndarray


@dataclass(frozen=True)
class RobotState:
    """What an arm's driver says of one period.

    stamp_ns: when it was measured, ROS system time (a simulator in lockstep: simulated time);
    proprio: float32 ``[P]`` in the station's layout; joint_positions: float64 ``[J]`` in radians, of
    fingers in metres; position ``[3]`` in metres and quaternion ``[4]`` (w, x, y, z): the tool in the
    base frame; fault: what is wrong, in mode ``fault``; resets: how many the driver has finished, the
    state belongs to the last of them.

    Only of a simulated twin: snapshot, float64 ``[N]``, all that its cameras' pictures depend on;
    tick, how many actions of the episode were executed; reward and the flags, as in TimeStep.
    """

    stamp_ns: int
    proprio: np.ndarray
    joint_positions: np.ndarray
    joint_names: tuple[str, ...]
    position: np.ndarray
    quaternion: np.ndarray
    gripper_width_m: float
    mode: RobotMode
    fault: str = ""
    resets: int = 0
    snapshot: np.ndarray | None = None
    tick: int = 0
    reward: float = 0.0
    success: bool = False
    terminated: bool = False
    truncated: bool = False


@dataclass(frozen=True)
class ActionChunk:
    """A base policy's answer to one observation.

    actions: float32 ``[H, A]`` in [-1, 1]; features: float32 ``[F]``, the frozen policy's own view
    of the observation (empty where a policy offers none).
    """

    actions: np.ndarray
    features: np.ndarray
    policy_version: str
    stamp_ns: int = 0


@dataclass(frozen=True)
class EpisodeSpec:
    """An order for one episode; equal specs give equal episodes in simulation.

    t_base: ticks that the base drives alone before the residual joins in (``None``: the whole
    episode). xi: scale of the residual, in units of normalised action. explore: sample the
    residual instead of taking its mode, with the same noise for ``noise_ticks`` ticks (white noise
    cancels itself out before it turns or moves an arm anywhere). record_images: keep the frames in
    the episode (a slow simulator may take one only every few ticks, ``probe.image_every``).
    """

    task: str
    seed: int
    mode: Mode = "base"
    t_base: int | None = None
    xi: float = 0.0
    explore: bool = False
    noise_ticks: int = 1
    record_images: bool = True


@dataclass(frozen=True)
class Episode:
    """A finished episode in columns. Row ``t`` of the ``T + 1`` columns is what was seen at tick t.

    proprio ``[T+1, P]``; state ``[T+1, S]`` (the residual's input: proprio, policy features, the
    base's plan); images ``{camera: uint8 [T+1, h, w, 3]}`` (empty if not recorded);
    base_action ``[T+1, A]`` (so that a truncated end can be bootstrapped without the VLA);
    residual, action ``[T, A]`` where ``action`` is what was executed after clipping and limits;
    reward ``[T]``; source ``uint8 [T]`` (BASE_TICK, RESIDUAL_TICK, EXPERT_TICK);
    intervention ``bool [T]``.
    """

    spec: EpisodeSpec
    instruction: str
    proprio: np.ndarray
    state: np.ndarray
    images: Mapping[str, np.ndarray]
    base_action: np.ndarray
    residual: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    source: np.ndarray
    intervention: np.ndarray
    terminated: bool
    truncated: bool
    success: bool
    policy_version: str = ""
    voided: bool = False  # a fault spoiled it: kept, marked, never trained on
    environment_success: bool = False  # what the environment itself says; ``success`` is the reward model's word

    def __len__(self) -> int:
        return len(self.action)

    def mc_return(self, gamma: float) -> np.ndarray:
        """Discounted return to go of the recorded rewards, float32 ``[T]``."""
        returns = np.zeros(len(self), np.float32)
        value = 0.0
        for t in range(len(self) - 1, -1, -1):
            value = float(self.reward[t]) + gamma * value
            returns[t] = value
        return returns

    def tail(self, start: int) -> Episode:
        """The episode from tick ``start`` on, as if it had begun there (``start < T``)."""
        columns = ("proprio", "state", "base_action", "residual", "action", "reward", "source", "intervention")
        cut = {name: getattr(self, name)[start:] for name in columns}
        images = {name: frames[start:] for name, frames in self.images.items()}
        return dataclasses.replace(self, images=images, **cut)
