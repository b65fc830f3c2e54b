"""Runs that begin behind the first stages of another run and differ from it in a few settings."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pld_core.config import TrainConfig, from_dict, to_dict
from pld_core.runlog import read_config
from pld_core.storage import write_atomic
from pld_core.strict import flatten, unflatten

# What each stage leaves behind besides its mark in stages/.
LEFT: Mapping[str, tuple[str, ...]] = {
    "base": ("checkpoints/base.vla",),  # only of a run that made its own
    "harvest": ("harvest",),
    "learn": ("checkpoints/specialist.ckpt",),
    "probe": ("probe",),
}


def variant(run: Path, name: str, settings: Mapping[str, Any]) -> TrainConfig:
    """The settings of a run in the folder ``name`` beside ``run``."""
    changed = {"name": name, "runs_dir": str(run.parent), "report.videos": False, "fresh": False, **settings}
    return from_dict(unflatten({**flatten(to_dict(read_config(run))), **changed}), source=name)


def share(run: Path, folder: Path, stages: Sequence[str]) -> None:
    """Let the run in ``folder`` begin behind ``stages`` of ``run``; a kill leaves no stage marked by half."""
    for stage in stages:
        mark = Path("stages") / f"{stage}.json"
        if (folder / mark).exists():
            continue
        for source in (run / part for part in LEFT[stage]):
            if source.exists():
                _copy(source, folder / source.relative_to(run))
        write_atomic(folder / mark, (run / mark).read_bytes())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)
