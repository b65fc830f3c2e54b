"""A run's settings and policies for those who only read it: no lock, nothing is written, nothing moves."""

from __future__ import annotations

import contextlib
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pld_core import bring
from pld_core.config import TrainConfig
from pld_core.control import ResidualController, SafetyLimits, limits_of
from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import CheckpointError
from pld_core.interfaces import BasePolicy
from pld_core.runlog import read_config
from pld_core.stages.workspace import Workspace
from pld_core.stations import load_robot


class FinishedRun(Workspace):
    """config: other settings than the run's own; policy: another base; world: what has ``observation_spec`` and
    ``action_spec`` in place of the task's environment."""

    def __init__(
        self, folder: Path, config: TrainConfig | None = None, policy: BasePolicy | None = None, world: Any = None
    ) -> None:
        log = SimpleNamespace(dir=folder, stage_done=lambda stage: False)
        super().__init__(config or read_config(folder), cast(Any, log), cast(Any, None), {})
        self._world = world
        if policy is not None:
            self.__dict__["policy"] = policy

    @cached_property
    def environment(self) -> Any:  # type: ignore[override]  # nothing here steps it
        if self._world is not None:
            return self._world
        if self.config.runner != "local":
            station = load_robot(self.config.robot)
            return SimpleNamespace(
                task=self.config.task,
                observation_spec=station.observation_spec,
                action_spec=station.action_spec,
                limits=limits_of(station),
            )
        (environment,) = bring.environment_factory(self.config.task)(1)
        with contextlib.closing(environment):
            return SimpleNamespace(
                task=environment.task,
                observation_spec=environment.observation_spec,
                action_spec=environment.action_spec,
                limits=SafetyLimits(environment.action_spec, getattr(environment, "workspace", None)),
            )

    @cached_property
    def probe(self) -> EpisodeStore:  # type: ignore[override]
        return EpisodeStore(self.folder / "probe", read_only=True)

    def distilled_policy(self) -> BasePolicy:
        """VLA*; CheckpointError where the run has none."""
        if self.distilled is None:
            raise CheckpointError(f"{self.distilled_path} does not exist: the run has distilled nothing yet.")
        return self.distilled

    def controller(self, lanes: int) -> ResidualController:
        """The tick of this run, in the limits of its environment."""
        return ResidualController(
            self.policy, self.environment.limits, lanes, self.config.replan_every, self.algorithm.residual,
            self.config.learn.policy_features, self.environment.observation_spec,
        )  # fmt: skip
