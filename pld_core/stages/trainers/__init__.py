"""Trainers elsewhere: a folder with the dataset, the config and the commands with which they make VLA*."""

from __future__ import annotations

from pld_core.stages.trainers.job import README, Job, Trainer, job_of
from pld_core.stages.trainers.openpi import OpenPi
from pld_core.stages.trainers.openvla_oft import OpenVlaOft

_TRAINERS: dict[str, Trainer] = {"openpi": OpenPi(), "openvla_oft": OpenVlaOft()}
EXTERNAL = tuple(_TRAINERS)


def external(name: str) -> Trainer:
    return _TRAINERS[name]


__all__ = ["EXTERNAL", "README", "Job", "Trainer", "external", "job_of"]
