"""Distillation: what VLA* is to learn, and who teaches it: this process, a trainer elsewhere, or nobody."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np

from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import ConfigError, StageError
from pld_core.interfaces import TrainableVLA
from pld_core.runlog import read_config
from pld_core.stages import trainers
from pld_core.stages.workspace import Workspace
from pld_core.types import RESIDUAL_TICK, Episode

Distiller = Callable[[Workspace], dict[str, Any]]
"""Has VLA* made of a run's probes; answers what stages/distill.json keeps."""


def run_distill(work: Workspace) -> dict[str, Any]:
    return distiller(work)(work)


def distiller(work: Workspace) -> Distiller:
    """As ``distill.trainer`` says. Raises ConfigError where the policy or this machine does not allow it."""
    chosen, trainable = work.config.distill.trainer, isinstance(work.policy, TrainableVLA)
    if chosen in trainers.EXTERNAL:
        return _external
    if chosen == "in_process" and not trainable:
        raise ConfigError(
            f"distill.trainer is in_process, but {type(work.policy).__name__} has no sft(). Give auto, none, or one of "
            f"{', '.join(trainers.EXTERNAL)}."
        )
    return _in_process if trainable and chosen != "none" else _nobody


def check_distiller(work: Workspace) -> None:
    """At the start of a run, what would else be refused hours later."""
    if distiller(work) is _external:
        trainers.external(work.config.distill.trainer).check(work.environment.action_spec)


def _nobody(work: Workspace) -> dict[str, Any]:
    if work.config.distill.trainer == "none":
        work.console.skip("distill", "distill.trainer is none: the specialist is the result")
        return {"skipped": "distill.trainer is none"}
    elsewhere = " or ".join(f"--distill.trainer {name}" for name in trainers.EXTERNAL)
    work.console.skip(
        "distill",
        f"{type(work.policy).__name__} cannot be trained here: the specialist is the result. {elsewhere} prepares its "
        f"training elsewhere; of this run: pld export {work.folder} --for {trainers.EXTERNAL[0]} --out FOLDER",
    )
    return {"skipped": f"the base policy has no sft(); {elsewhere} prepares its training elsewhere"}


def _external(work: Workspace) -> dict[str, Any]:
    config = work.config.distill
    folder = work.folder / "distill" / config.trainer
    episodes = to_imitate(work)
    with work.console.stage("distill", len(episodes), "episodes") as shown:
        job = trainers.job_of(work, episodes, folder)
        trainers.external(config.trainer).prepare(job, shown.update)
    work.console.note(f"VLA* is to be trained by {config.trainer}: {folder / trainers.README} says how")
    return {
        "trainer": config.trainer,
        "next": f"train VLA* elsewhere: {folder.relative_to(work.folder) / trainers.README}",
        "episodes": len(job.episodes),
        "ticks": sum(len(e) for e in job.episodes),
    }


def _in_process(work: Workspace) -> dict[str, Any]:
    config = work.config.distill
    policy = cast(TrainableVLA, work.policy)
    with work.console.stage("distill", config.steps, "updates") as shown:
        episodes = to_imitate(work)
        folder = work.log.checkpoint_dir("distill")

        resumed = True

        def progress(step: int, loss: float) -> None:
            nonlocal resumed
            if resumed:  # an interrupted distillation repeats its last steps
                work.log.rewind("distill", step - 1)
                resumed = False
            shown.update(step, loss=loss)
            work.log.log("distill", step, loss=loss)

        star = policy.sft(
            episodes, mode=config.mode, rank=config.rank, steps=config.steps, batch_size=config.batch_size,
            learning_rate=config.learning_rate, seed=work.config.seed, state_path=folder / "sft.state",
            gripper=work.environment.action_spec.gripper, every=imitated_every(work), progress=progress,
        )  # fmt: skip
        star.save(work.distilled_path)
    return {"policy": star.version, "episodes": len(episodes), "ticks": sum(len(e) for e in episodes)}


def to_imitate(work: Workspace) -> list[Episode]:
    """Probed episodes of this run and of ``distill.runs``, cut to the ticks that VLA* is to learn.

    The start that the base drove is what a good specialist has to correct: imitated as well, it
    holds VLA* back (docs/results.md has the difference).
    """
    config = work.config.distill
    for run in config.runs if config.data != "oracle" else ():
        _check_pictures(run, work.config.probe.image_every)
    stores = [work.probe, *(EpisodeStore(probe_folder(run), read_only=True) for run in config.runs)]
    for name, store in zip((work.folder, *config.runs), stores, strict=True):
        if config.episodes is not None and len(store) < config.episodes:
            raise ConfigError(f"distill.episodes is {config.episodes}, but {name} holds only {len(store)} probes.")
    episodes = [episode for store in stores for episode in islice(store, config.episodes)]
    if config.data != "pld" or config.imitate == "all":
        return episodes
    every = imitated_every(work)
    taken_over = [(e, np.flatnonzero(e.source == RESIDUAL_TICK)) for e in episodes]
    starts = [(e, -(-int(ticks[0]) // every) * every) for e, ticks in taken_over if len(ticks)]  # with a fresh picture
    parts = [e.tail(start) for e, start in starts if start < len(e)]
    if not parts:
        raise StageError(
            f"The base alone finished all {len(episodes)} probed episodes. Probe more (probe.episodes), give the "
            "specialist more of them (a smaller probe.alpha), learn from more of them (distill.episodes), or learn all "
            "ticks (--distill.imitate all)."
        )
    return parts


def imitated_every(work: Workspace) -> int:
    """Ticks from one imitated tick to the next: those with a fresh picture. Demonstrations have one at every tick."""
    return 1 if work.config.distill.data == "oracle" else work.config.probe.image_every


def probe_folder(run: str) -> Path:
    folder = Path(run) / "probe"
    if not folder.is_dir():
        raise ConfigError(f"distill.runs names {run!r}, which holds no probe data; give the folder of a finished run.")
    return folder


def _check_pictures(run: str, every: int) -> None:
    """Ticks that are imitated must have a fresh picture in another run's probes too."""
    theirs = read_config(Path(run)).probe.image_every
    if every % theirs:
        raise ConfigError(
            f"distill.runs names {run!r}, whose pictures served {theirs} ticks each; here every {every} are imitated. "
            f"Give --probe.image_every {theirs}."
        )
