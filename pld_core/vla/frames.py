"""Labelled frames for the grounding stage, and how to collect them in a simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pld_core.errors import ContractError
from pld_core.interfaces import SimulatedEnvironment
from pld_core.types import Observation
from pld_core.vla.model import GROUNDING_DIM


@dataclass(frozen=True)
class GroundingFrames:
    """``N`` frames: images ``{camera: uint8 [N, h, w, 3]}``, proprio float32 ``[N, P]``, instruction_ids int ``[N]``
    into ``instructions``, labels float32 ``[N, 5]`` (dx, dy, dz in cm; sin, cos of the yaw error)."""

    images: Mapping[str, np.ndarray]
    proprio: np.ndarray
    instructions: tuple[str, ...]
    instruction_ids: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        counts = {"proprio": len(self.proprio), "instruction_ids": len(self.instruction_ids)}
        counts |= {f"images[{name!r}]": len(frames) for name, frames in self.images.items()}
        if set(counts.values()) - {len(self.labels)} or self.labels.ndim != 2 or self.labels.shape[1] != GROUNDING_DIM:
            raise ContractError(f"labels are {self.labels.shape}, need [N, {GROUNDING_DIM}] with N equal to {counts}.")
        if not np.isfinite(self.labels).all() or not np.isfinite(self.proprio).all():
            raise ContractError("Grounding labels or proprioception hold NaN or infinity.")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: np.ndarray | slice) -> GroundingFrames:
        """The frames at ``rows``."""
        images = {name: frames[rows] for name, frames in self.images.items()}
        return GroundingFrames(
            images, self.proprio[rows], self.instructions, self.instruction_ids[rows], self.labels[rows]
        )

    @classmethod
    def concatenate(cls, parts: Sequence[GroundingFrames]) -> GroundingFrames:
        """Frames of several collections; instructions are renumbered."""
        instructions = tuple(dict.fromkeys(text for part in parts for text in part.instructions))
        ids = [np.array([instructions.index(t) for t in part.instructions])[part.instruction_ids] for part in parts]
        return cls(
            {name: np.concatenate([part.images[name] for part in parts]) for name in parts[0].images},
            np.concatenate([part.proprio for part in parts]),
            instructions,
            np.concatenate(ids),
            np.concatenate([part.labels for part in parts]),
        )

    @classmethod
    def gather(cls, observations: Sequence[Observation], labels: Sequence[np.ndarray]) -> GroundingFrames:
        """Frames from observations and their labels."""
        instructions = tuple(dict.fromkeys(observation.instruction for observation in observations))
        numbers = {text: number for number, text in enumerate(instructions)}
        return cls(
            {name: np.stack([o.images[name] for o in observations]) for name in observations[0].images},
            np.stack([o.proprio for o in observations]).astype(np.float32),
            instructions,
            np.array([numbers[o.instruction] for o in observations]),
            np.stack(labels).astype(np.float32),
        )


def collect_grounding_frames(environments: Sequence[SimulatedEnvironment], frames: int, seed: int) -> GroundingFrames:
    """Drive simulated environments around their targets and record ``frames`` labelled frames.

    Half of the motion is the oracle's, so that the frames are where a policy will be; the rest are bursts
    of random actions of all sizes, so that the labels cover the errors it will make. Environments are
    stepped in turn, each through episodes of its own; equal seeds give equal frames.
    """
    rng = np.random.default_rng(seed)
    drivers = [_Driver(e, child) for e, child in zip(environments, rng.spawn(len(environments)), strict=True)]
    observations: list[Observation] = []
    labels: list[np.ndarray] = []
    while len(observations) < frames:
        for driver in drivers:
            observation, label = driver.tick()
            observations.append(observation)
            labels.append(label)
    return GroundingFrames.gather(observations[:frames], labels[:frames])


class _Driver:
    """One environment, driven by the oracle with bursts of random actions."""

    def __init__(self, environment: SimulatedEnvironment, rng: np.random.Generator) -> None:
        self._environment = environment
        self._oracle = environment.oracle()
        self._rng = rng
        self._step = None
        self._age = 0
        self._burst = 0
        self._push = np.zeros(environment.action_spec.dim)

    def tick(self) -> tuple[Observation, np.ndarray]:
        """Move one tick (or start an episode) and return what is seen, with its label."""
        environment = self._environment
        if self._step is None or self._step.last or self._age >= environment.max_steps:
            self._step = environment.reset(int(self._rng.integers(2**31)))
            self._oracle.reset()
            self._age = self._burst = 0
        else:
            self._step = environment.step(self._action())
            self._age += 1
        return self._step.observation, np.asarray(environment.grounding(), np.float32)

    def _action(self) -> np.ndarray:
        if self._burst == 0 and self._rng.random() < 0.12:
            self._burst = int(self._rng.integers(2, 9))
            scale = 10.0 ** self._rng.uniform(-1.2, 0.0)  # from 0.06 to full speed
            self._push = scale * self._rng.uniform(-1.0, 1.0, self._push.shape)
        action = self._oracle.act().astype(np.float64)
        if self._burst > 0:
            self._burst -= 1
            moves = slice(0, -1) if action.size == 7 else slice(None)  # the gripper keeps what it holds
            push = self._push[moves]
            action[moves] = push + 0.3 * np.abs(push) * self._rng.normal(size=push.shape)
        return np.clip(action, -1.0, 1.0).astype(np.float32)
