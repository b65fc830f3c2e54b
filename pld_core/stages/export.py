"""Recorded episodes to datasets for other tools, and back."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from pld_core import bring, stations
from pld_core.config import DistillConfig, TrainConfig
from pld_core.config_rules import validate
from pld_core.console import Console
from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import ConfigError
from pld_core.runlog import read_config
from pld_core.types import ActionSpec, Episode

if TYPE_CHECKING:
    from pld_core.data.lerobot import DatasetSpec

Progress = Callable[[int], None]
VERSIONS = {"lerobot": "v3.0", "lerobot-v2.1": "v2.1"}


@dataclass(frozen=True)
class ExportConfig:
    """Which episodes become what kind of dataset."""

    run: Annotated[Path, tyro.conf.Positional]  # folder of a run, or of recorded episodes
    out: Path  # folder of the dataset
    data: Literal["probe", "harvest", "demonstrations"] = "probe"  # of a run
    format: Literal["lerobot", "lerobot-v2.1", "rlds"] = "lerobot"
    # Instead: what VLA* is to learn, with a trainer's config and commands, as distill.trainer has it made.
    trainer: Annotated[Literal["none", "openpi", "openvla_oft"], tyro.conf.arg(name="for")] = "none"
    start: str = ""  # with --for: the checkpoint that the trainer starts from, as distill.start
    mode: Literal["full", "lora"] | None = None  # with --for: as distill.mode; default: the run's
    steps: int | None = None  # with --for: as distill.steps; default: the run's
    units: Literal["normalised", "metric"] = "normalised"  # of `action`: [-1, 1], or metres and radians per tick
    codec: Literal["h264", "av1"] = "h264"  # of the videos; h264 plays everywhere
    fps: int | None = None  # ticks per second; default: as the run's task or station says
    append: bool = False  # add what is not in the dataset yet; continues an export that was interrupted
    repo_id: str = ""  # name on the Hugging Face Hub, user/dataset
    push: bool = False  # upload it there
    private: bool = True  # for yourself only

    def __post_init__(self) -> None:
        if self.push and not self.repo_id:
            raise ConfigError("--push needs the name of the dataset on the Hub: --repo_id user/dataset.")
        if self.push and self.format == "rlds":
            raise ConfigError("--push uploads LeRobot datasets; an RLDS dataset is copied as a folder.")
        if self.fps is not None and self.fps < 1:
            raise ConfigError(f"--fps is {self.fps}; give the ticks per second, at least 1.")
        if self.trainer == "none" and (self.start or self.mode or self.steps is not None):
            raise ConfigError("--start, --mode and --steps are for a trainer: give --for openpi or openvla_oft too.")
        if self.trainer != "none" and (self.data, self.format, self.units) != ("probe", "lerobot", "normalised"):
            raise ConfigError(
                f"--for {self.trainer} says itself what is exported: leave out --data, --format, --units."
            )
        if self.trainer != "none" and (self.push or self.append or self.fps is not None):
            raise ConfigError(f"--for {self.trainer} takes no --push, --append or --fps; it goes on by itself.")
        if self.format == "rlds" and (self.append or self.units == "metric"):
            raise ConfigError(
                "--append and --units metric are for LeRobot datasets; leave them out with --format rlds."
            )


@dataclass
class Summary:
    """What was exported. seconds: for reading, encoding and writing."""

    folder: Path
    episodes: int = 0
    frames: int = 0
    voided: int = 0
    present: int = 0  # in the dataset before
    seconds: float = 0.0
    address: str = ""  # on the Hub
    files: list[Path] = field(default_factory=list)

    @property
    def megabytes(self) -> float:
        return sum(path.stat().st_size for path in self.files) / 1e6

    def __str__(self) -> str:
        left_out = f", {self.voided} voided left out" if self.voided else ""
        left_out += f", {self.present} there already" if self.present else ""
        speed = self.frames / self.seconds if self.seconds else 0.0
        size = f"{self.megabytes:.2f} MB in {len(self.files)} files" if self.files else "written"
        where = f"; uploaded: {self.address}" if self.address else ""
        return (
            f"{self.folder}: {self.episodes} episodes, {self.frames} frames{left_out}; "
            f"{size}, {speed:.0f} frames/s{where}"
        )


def export(config: ExportConfig) -> Summary:
    """Write the dataset. Raises ConfigError for what cannot be found or is there already, see also LeRobotWriter."""
    if config.trainer != "none":
        return _for_trainer(config)
    store, run = _source(config)
    if any(config.out.glob("*")) and not config.append:
        raise ConfigError(f"{config.out} is not empty. Give another --out, or --append to add what it lacks.")
    present = _present(config.out) if config.append else set()
    summary, began = Summary(config.out), time.perf_counter()
    with Console(("export",)) as console, console.stage("export", len(store), "episodes") as shown:
        if config.format == "rlds":
            from pld_core.data.rlds import write_rlds

            write_rlds(config.out, _sound(store, summary, shown.update))
        else:
            _write_lerobot(config, run, _sound(store, summary, shown.update, present))
    summary.seconds = time.perf_counter() - began
    summary.files = sorted(path for path in config.out.rglob("*") if path.is_file())
    if config.push:
        from pld_core.data.lerobot.hub import push

        summary.address = push(config.out, config.repo_id, config.private)
    return summary


def _for_trainer(config: ExportConfig) -> Summary:
    """What ``distill.trainer`` would have left in a run that is finished."""
    from pld_core.stages import trainers
    from pld_core.stages.distill import to_imitate
    from pld_core.stages.finished_run import FinishedRun

    own = read_config(config.run)
    if own.task.startswith("<"):
        raise ConfigError(f"The task of {config.run} was brought in Python ({own.task}): set distill.trainer there.")
    run = FinishedRun(config.run, validate(dataclasses.replace(own, distill=_distill_for(config, own))))
    if not _holds_episodes(config.run / "probe"):
        raise ConfigError(f"{config.run} holds no probe episodes, which VLA* would learn.")
    summary, began = Summary(config.out), time.perf_counter()
    with Console(("export",)) as console:
        job = trainers.job_of(run, to_imitate(run), config.out)
        with console.stage("export", len(job.episodes), "episodes") as shown:
            trainers.external(config.trainer).prepare(job, shown.update)
    summary.seconds = time.perf_counter() - began
    summary.episodes, summary.frames = len(job.episodes), sum(len(episode) for episode in job.episodes)
    summary.files = sorted(path for path in config.out.rglob("*") if path.is_file())
    return summary


def _distill_for(config: ExportConfig, own: TrainConfig) -> DistillConfig:
    """The run's settings with what was given instead."""
    mode, every = config.mode or own.distill.mode, own.probe.image_every
    if mode == "head":
        raise ConfigError(
            f"{config.run} has distill.mode head, which {config.trainer} has not: give --mode full or --mode lora."
        )
    if every > 1:
        raise ConfigError(
            f"The probes of {config.run} have a picture at every {every}th tick only (probe.image_every), and "
            f"{config.trainer} learns every tick with its picture: they cannot be used. Probe with probe.image_every 1."
        )
    return dataclasses.replace(
        own.distill,
        trainer=config.trainer,
        start=config.start or (own.distill.start if own.distill.trainer == config.trainer else ""),
        mode=mode,
        steps=own.distill.steps if config.steps is None else config.steps,
    )


def import_dataset(folder: Path, out: Path) -> Summary:
    """The episodes of a dataset into a new store at ``out``; ConfigError if episodes are there already."""
    from pld_core.data.lerobot import LeRobotReader

    reader = LeRobotReader(folder)
    store = EpisodeStore(out)
    if len(store):
        raise ConfigError(f"{out} holds {len(store)} episodes already; give another --out.")
    summary, began = Summary(out), time.perf_counter()
    with Console(("import",)) as console, console.stage("import", len(reader), "episodes") as shown:
        for episode, metadata in reader:
            store.append(episode, **metadata)
            summary.episodes, summary.frames = summary.episodes + 1, summary.frames + len(episode)
            shown.update(summary.episodes)
    summary.seconds = time.perf_counter() - began
    summary.files = sorted(path for path in out.rglob("*") if path.is_file())
    return summary


def _write_lerobot(
    config: ExportConfig, run: TrainConfig | None, episodes: Iterator[tuple[Episode, dict[str, Any]]]
) -> None:
    from pld_core.data.lerobot import LeRobotWriter
    from pld_core.data.lerobot.hub import check_upload

    if config.push:
        check_upload()
    writer = LeRobotWriter(config.out, _spec(config, run), VERSIONS[config.format])
    for episode, metadata in episodes:
        writer.append(episode, **metadata)


def _present(folder: Path) -> set[str]:
    """Identities of the episodes in a dataset; of nothing before its first one is finished."""
    from pld_core.data.lerobot import LeRobotReader, layout

    return LeRobotReader(folder).identities() if (folder / layout.INFO).exists() else set()


def _sound(
    store: EpisodeStore, summary: Summary, progress: Progress, present: Collection[str] = ()
) -> Iterator[tuple[Episode, dict[str, Any]]]:
    """Episodes that no fault spoiled and that are not ``present`` yet, counted."""
    for episode, metadata in store.items():
        if episode.voided or len(episode) == 0:
            summary.voided += 1
            continue
        if present and _identity(episode, metadata) in present:
            summary.present += 1
            continue
        yield episode, metadata
        summary.episodes, summary.frames = summary.episodes + 1, summary.frames + len(episode)
        progress(summary.episodes)


def _identity(episode: Episode, metadata: dict[str, Any]) -> str:
    from pld_core.data.lerobot.provenance import describe, identity

    return identity(describe(episode, metadata))


def _source(config: ExportConfig) -> tuple[EpisodeStore, TrainConfig | None]:
    """The episodes, and the settings of their run where they are part of one."""
    folder = config.run
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}; give a run's, or one of recorded episodes.")
    if _holds_episodes(folder):
        parent = folder.resolve().parent
        return EpisodeStore(folder, read_only=True), read_config(parent) if (parent / "config.yaml").exists() else None
    run = read_config(folder)
    found = folder / config.data
    if config.data == "demonstrations":
        found = next((path for path in sorted(folder.rglob("demonstrations")) if _holds_episodes(path)), found)
    if not _holds_episodes(found):
        hint = (
            " A base's demonstrations are removed once it is made; a run with --distill.data oracle keeps its own as "
            "probe data."
            if config.data == "demonstrations"
            else ""
        )
        raise ConfigError(f"{folder} holds no {config.data} episodes ({found} has none).{hint}")
    return EpisodeStore(found, read_only=True), run


def _holds_episodes(folder: Path) -> bool:
    return next(folder.glob("episode-*.npz"), None) is not None


def _spec(config: ExportConfig, run: TrainConfig | None) -> DatasetSpec:
    from pld_core.data.lerobot import DatasetSpec

    settings: dict[str, Any] = {"units": config.units, "codec": config.codec}
    known = None
    if run is not None and not run.task.startswith("<"):
        known = _of_run(run)
    if known is None and (config.fps is None or config.units == "metric"):
        raise ConfigError(
            "What a unit of action means and how many ticks make a second is known of a run's task only. Give the "
            "folder of a run with a named task; or --fps, with --units normalised."
        )
    actions, names, robot = known or (ActionSpec(), (), "")
    if config.fps is not None:
        actions = dataclasses.replace(actions, rate_hz=float(config.fps))
    return DatasetSpec(actions, names, robot, **settings)


def _of_run(run: TrainConfig) -> tuple[ActionSpec, tuple[str, ...], str]:
    """Action units, names of the proprioception, and the robot."""
    if run.runner != "local":
        station = stations.load_robot(run.robot)
        return station.action_spec, tuple(station.proprio), station.name
    robot = "" if run.robot == stations.NO_ROBOT else run.robot
    (environment,) = bring.environment_factory(run.task)(1)
    with contextlib.closing(environment):
        return environment.action_spec, tuple(environment.observation_spec.proprio_names), robot
