"""What a trainer elsewhere is given, and what every folder for one consists of."""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pld_core.config import DistillConfig
from pld_core.errors import ConfigError, StageError
from pld_core.stages.workspace import Workspace
from pld_core.storage import finite, write_atomic
from pld_core.types import ActionSpec, Episode
from pld_core.vla.remote.key_map import KeyMap
from pld_core.vla.remote.settings import PolicySettings, load_settings

README = "README.md"
MARKER = "pld_export.json"  # what the folder is for; whatever lies in a folder without it is not ours
HORIZON = 10  # of runs that do not say how many actions their base's chunks have
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Job:
    """Episodes that VLA* is to learn, and what a trainer must know of them.

    episodes: sound ones, cut to the ticks to imitate; horizon: actions of a chunk of the base; keys: what the base is
    served with, where it is served with keys of its own; run: the name of the run; policy: its base, as it was given.
    """

    folder: Path
    run: str
    settings: DistillConfig
    episodes: Sequence[Episode]
    actions: ActionSpec
    proprio_names: tuple[str, ...]
    horizon: int
    keys: KeyMap | None
    policy: str = ""

    @property
    def slug(self) -> str:
        """The run's name in the letters that every tool takes for a name."""
        return re.sub(r"\W+", "_", self.run, flags=re.ASCII).strip("_").lower() or "run"

    @cached_property
    def digest(self) -> str:
        """Of what the episodes teach, in their order; pictures follow from it."""
        found = hashlib.sha256()
        for episode in self.episodes:
            found.update(json.dumps([finite(asdict(episode.spec)), episode.instruction, len(episode)]).encode())
            found.update(episode.action.tobytes() + episode.proprio.tobytes())
        return found.hexdigest()

    @property
    def proprio_dim(self) -> int:
        return self.episodes[0].proprio.shape[1]

    @property
    def action_dim(self) -> int:
        return self.episodes[0].action.shape[1]

    @cached_property
    def cameras(self) -> dict[str, tuple[int, ...]]:
        """``{camera: (height, width, 3)}``: those that the base is served with, in their order; else all."""
        sizes = {name: tuple(frames.shape[1:]) for name, frames in self.episodes[0].images.items()}
        named = [key.camera for key in self.keys.images.values()] if self.keys else list(sizes)
        if missing := sorted(set(named) - set(sizes)):
            raise StageError(f"The probes have no pictures of {', '.join(missing)}, which the base policy sees.")
        return {name: sizes[name] for name in named}

    @property
    def outer(self) -> list[str]:
        """Cameras that are not at a wrist."""
        return [name for name in self.cameras if "wrist" not in name]

    @property
    def wrists(self) -> list[str]:
        return [name for name in self.cameras if "wrist" in name]


class Trainer(ABC):
    """Prepares the work of one trainer. What is written is complete or continued by the same call: README.md last."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, str]]  # a module for the dataset, and how it is installed

    def check(self, actions: ActionSpec) -> None:
        """ConfigError for a robot that the trainer cannot take, or where the dataset cannot be written."""
        module, install = self.needs
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"The dataset for {self.name} needs {module}: {install}.")

    def prepare(self, job: Job, progress: Progress = lambda done: None) -> None:
        self.check(job.actions)
        self._claim(job)
        self.write_dataset(job, progress)
        for name, text in {**self.files(job), README: self.readme(job)}.items():
            write_atomic(job.folder / name, text)

    def _claim(self, job: Job) -> None:
        """Mark the folder as this job's. ConfigError where it holds anything else."""
        path, wanted = job.folder / MARKER, {"trainer": self.name, "run": job.run, "episodes": job.digest}
        if not path.exists():
            if job.folder.exists() and any(not found.name.startswith(".") for found in job.folder.iterdir()):
                raise ConfigError(
                    f"{job.folder} is not empty, and holds no export for {self.name} ({MARKER} is missing). Give "
                    "another --out, or move it away."
                )
            write_atomic(path, json.dumps(wanted, indent=2) + "\n")
            return
        try:
            present = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            present = None
        if present != wanted:
            said = present if isinstance(present, dict) else {}
            raise ConfigError(
                f"{job.folder} holds another export (for {said.get('trainer')}, of run {said.get('run')}; this is for "
                f"{self.name}, of run {job.run}, or has other episodes). Give another --out, or move it away."
            )

    @abstractmethod
    def write_dataset(self, job: Job, progress: Progress) -> None:
        """All episodes, or those that an interrupted call did not come to."""

    @abstractmethod
    def files(self, job: Job) -> Mapping[str, str]:
        """``{name: text}`` of the config and the commands."""

    @abstractmethod
    def readme(self, job: Job) -> str: ...


def job_of(work: Workspace, episodes: Sequence[Episode], folder: Path) -> Job:
    """Of a run with ``episodes`` as ``to_imitate`` gives them; StageError where none is sound."""
    sound = [episode for episode in episodes if not episode.voided and len(episode)]
    if not sound:
        raise StageError(f"None of the {len(episodes)} probed episodes can be learnt (voided or empty).")
    served = _served_with(work.config.policy)
    return Job(
        folder,
        work.folder.resolve().name,
        work.config.distill,
        sound,
        work.environment.action_spec,
        tuple(work.environment.observation_spec.proprio_names),
        _horizon(work.folder) or (served.action_horizon if served else None) or HORIZON,
        served.keys if served else None,
        work.config.policy,
    )


def _served_with(policy: str) -> PolicySettings | None:
    name, _, argument = policy.partition(":")
    return load_settings(argument.partition("@")[0]) if name == "openpi" else None


def _horizon(run: Path) -> int | None:
    """Actions of a chunk of the base; the base itself need not be reachable any more."""
    path = run / "stages" / "base.json"
    return json.loads(path.read_text(encoding="utf-8")).get("action_horizon") if path.exists() else None


def resource(name: str) -> str:
    """The text of a file of this package."""
    return (importlib.resources.files("pld_core.stages.trainers") / name).read_text(encoding="utf-8")


def template(name: str, commit: str, settings: Mapping[str, object]) -> str:
    """The Python file ``name`` with ``NAME = value`` for each setting."""
    values = "\n".join(f"{key} = {value!r}" for key, value in settings.items())
    return resource(name).replace("@SETTINGS@", values).replace("@COMMIT@", commit)
