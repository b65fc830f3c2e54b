"""Labelled frames for the grounding stage, and how to collect them in a simulator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from pld_core.errors import ContractError, EpisodeLostError
from pld_core.interfaces import SimulatedEnvironment, begin_step, set_pictures
from pld_core.storage import open_archive, write_atomic
from pld_core.types import ActionSpec, Observation, TimeStep
from pld_core.vla.model import GROUNDING_DIM

MISS_TICKS = 0.5  # standard deviation, per axis, of where a careless episode goes instead, in ticks of full motion
TURN_RAD = 0.08  # most that a push of full size turns the tool per tick: it shall be led astray, not tumble
ABOVE_M = 0.008  # sideways distance at which it starts down
T = TypeVar("T")
_IMAGES, _ARRAYS = "images/", ("proprio", "instruction_ids", "labels")  # names in a file of frames


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

    def save(self, path: Path) -> None:
        """Completely or not at all; StorageError where it cannot be written."""
        arrays = {f"{_IMAGES}{name}": frames for name, frames in self.images.items()}
        arrays |= {name: getattr(self, name) for name in _ARRAYS}
        arrays["instructions"] = np.array(self.instructions)
        write_atomic(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> GroundingFrames:
        """What ``save`` wrote; DamagedArchiveError or ContractError for what cannot be that."""
        with open_archive(path) as file:
            images = {name.removeprefix(_IMAGES): file[name] for name in file.files if name.startswith(_IMAGES)}
            instructions = tuple(map(str, file["instructions"]))
            return cls(images=images, instructions=instructions, **{name: file[name] for name in _ARRAYS})


def collect_grounding_frames(
    environments: Sequence[SimulatedEnvironment], frames: int, seed: int, every: int = 1
) -> GroundingFrames:
    """Drive simulated environments around their targets and record ``frames`` labelled frames.

    The frames must cover what a policy that half works will see, its accidents included: half of the
    episodes are the oracle's with bursts of random actions, half go straight for a wrong spot and press
    on. Each environment goes through episodes of its own, those whose ticks run elsewhere all at once; equal seeds
    give equal frames.

    every: ticks from one recorded frame to the next. Where pictures cost more than motion, frames that differ more
    cost little more.
    """
    rng = np.random.default_rng(seed)
    drivers = [_Driver(e, child, every) for e, child in zip(environments, rng.spawn(len(environments)), strict=True)]
    observations: list[Observation] = []
    labels: list[np.ndarray] = []
    while len(observations) < frames:
        for finish in [driver.begin_tick() for driver in drivers]:
            if (found := finish()) is not None:
                observations.append(found[0])
                labels.append(found[1])
    return GroundingFrames.gather(observations[:frames], labels[:frames])


def push_scale(actions: ActionSpec) -> np.ndarray:
    """Per entry of an action, how much of a random push is applied, float64 ``[A]``."""
    scale = np.ones(actions.dim)
    scale[list(actions.rotation)] = min(1.0, TURN_RAD / actions.rotation_rad)
    return scale


class _Driver:
    """One environment, driven by the oracle or carelessly, with jitter and bursts of random actions."""

    def __init__(self, environment: SimulatedEnvironment, rng: np.random.Generator, every: int) -> None:
        self._environment, self._every = environment, every
        self._oracle = environment.oracle()
        spec = environment.action_spec
        set_pictures(environment, every)
        self._push_scale = push_scale(spec)
        self._moves = [k for k in range(spec.dim) if k != spec.gripper]  # the gripper keeps what it holds
        self._rng = rng
        self._ticks_left = 0

    def begin_tick(self) -> Callable[[], tuple[Observation, np.ndarray] | None]:
        """Move one tick (or start an episode); the function that comes back waits for it.

        It gives what is seen and its label, if that is to be recorded. Where the environment's process is lost, the
        next tick starts another episode.
        """
        finish = self._unless_lost(self._begin)
        return lambda: finish and self._unless_lost(finish)

    def _unless_lost(self, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except EpisodeLostError as loss:
            warnings.warn(f"{loss} Frames are taken from another one.", stacklevel=2)
            self._ticks_left = 0
            return None

    def _begin(self) -> Callable[[], tuple[Observation, np.ndarray] | None]:
        if self._ticks_left == 0 or self._step.last:
            self._start()
            return lambda: self._look(self._step)
        self._ticks_left -= 1
        self._tick += 1
        step = begin_step(self._environment, self._action())
        return lambda: self._look(step())

    def _look(self, step: TimeStep) -> tuple[Observation, np.ndarray] | None:
        self._step, self._label = step, np.asarray(self._environment.grounding(), np.float32)
        return (step.observation, self._label) if self._tick % self._every == 0 else None

    def _start(self) -> None:
        rng, environment = self._rng, self._environment
        self._step = environment.reset(int(rng.integers(2**31)))
        self._oracle.reset()
        self._tick = 0
        self._careless = rng.random() < 0.5
        # A careless episode ends stuck, and one stuck frame is like the next.
        self._ticks_left = environment.max_steps // 2 if self._careless else environment.max_steps
        self._miss_m = rng.normal(0.0, MISS_TICKS * environment.action_spec.translation_m, 2)
        self._jitter = rng.uniform(0.0, 0.3)
        self._burst, self._push = 0, np.zeros(environment.action_spec.dim)

    def _action(self) -> np.ndarray:
        rng = self._rng
        action = self._oracle.act().astype(np.float64)
        moves = self._moves
        if self._careless:
            action[:3] = self._straight_on()
        if self._burst == 0 and rng.random() < 0.08:
            self._burst = int(rng.integers(2, 9))
            scale = 10.0 ** rng.uniform(-1.2, 0.0)  # from 0.06 to full speed
            self._push = scale * self._push_scale * rng.uniform(-1.0, 1.0, action.shape)
        if self._burst > 0:
            self._burst -= 1
            action[moves] = self._push[moves]
        action[moves] += self._jitter * self._push_scale[moves] * rng.normal(size=action[moves].shape)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _straight_on(self) -> np.ndarray:
        """Above a spot beside the target, then down, whatever is in the way."""
        goal_m = self._label[:3] / 100.0
        goal_m[:2] += self._miss_m
        above = np.linalg.norm(goal_m[:2]) < ABOVE_M
        speed = 0.4 * goal_m / self._environment.action_spec.translation_m
        return np.clip(speed, -0.6, 0.6) * (1.0, 1.0, 1.0 if above else 0.0)
