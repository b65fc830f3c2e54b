"""What a base learns from, kept on disk task by task: a slow simulator takes longer over it than the learning."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from pld_core import bring
from pld_core.config import TrainConfig
from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import ContractError
from pld_core.interfaces import Environment
from pld_core.stages.demonstrate import BurstNoise, demonstrate, demonstrations
from pld_core.storage import DamagedArchiveError
from pld_core.types import Episode
from pld_core.vla.frames import GroundingFrames, collect_grounding_frames

_LANES = 8  # environments that take turns while frames are collected, at most
_HELD_OUT = 5  # every so many frames that are learnt from, one more is not: enough to see whole episodes


@dataclass(frozen=True)
class TaskData:
    """frames: to learn from; held_out: to measure with; demonstrations: successes of the task's oracle."""

    frames: GroundingFrames
    held_out: GroundingFrames
    demonstrations: list[Episode]


class BaseData:
    """Collects what is not in ``folder`` yet, or is damaged there; what a killed predecessor finished is taken over.

    Files are told apart by task, seed, lanes, number of frames and ticks between them; equal ones give equal frames.
    A damaged demonstration is replaced by a later one. A change of the simulator or the expert is not noticed: then
    remove the folder.
    """

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self._folder, self._config = folder, config
        self._lanes = min(_LANES, config.lanes)

    def of(self, task: str, episodes: int) -> TaskData:
        """episodes: demonstrations. Raises StageError where the oracle fails nearly always."""
        folder = self._folder / f"{task.replace('/', '-')}-seed{self._config.seed}"
        store = EpisodeStore(folder / "demonstrations")
        frames, held_out = self._read(folder, "frames"), self._read(folder, "held_out")
        shown = list(islice(store, episodes))
        if frames is None or held_out is None or len(shown) < episodes:
            count, seed = self._config.base.grounding_frames, self._config.seed
            with _environments(task, self._lanes) as environments:
                frames = frames or self._collect(folder, "frames", environments, count, seed)
                held_out = held_out or self._collect(folder, "held_out", environments, -(-count // _HELD_OUT), seed + 1)
                demonstrate(partial(demonstrations, environments, seed, BurstNoise()), store, episodes)  # type: ignore[arg-type]
            shown = list(islice(store, episodes))
        return TaskData(frames, held_out, shown)

    def _path(self, folder: Path, name: str) -> Path:
        base = self._config.base
        return folder / f"{name}-{self._lanes}x{base.grounding_frames}-every{base.grounding_every}.npz"

    def _read(self, folder: Path, name: str) -> GroundingFrames | None:
        """None where there are none, or none that can be read."""
        path = self._path(folder, name)
        try:
            return GroundingFrames.load(path) if path.exists() else None
        except (DamagedArchiveError, ContractError) as damage:
            warnings.warn(f"{damage} Its frames are collected again.", stacklevel=2)
            return None

    def _collect(
        self, folder: Path, name: str, environments: Sequence[Environment], count: int, seed: int
    ) -> GroundingFrames:
        frames = collect_grounding_frames(environments, count, seed, self._config.base.grounding_every)  # type: ignore[arg-type]
        frames.save(self._path(folder, name))
        return frames


@contextlib.contextmanager
def _environments(task: str, lanes: int) -> Iterator[Sequence[Environment]]:
    with contextlib.ExitStack() as stack:
        environments = bring.environment_factory(task)(lanes)
        for environment in environments:
            stack.callback(environment.close)
        yield environments
