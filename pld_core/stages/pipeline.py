"""Harvest, learn, probe, distill, evaluate, report: one run folder, resumable at any moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pld_core.config import UNNAMED, TrainConfig, check_keys, load_config, preset_for
from pld_core.config_rules import validate
from pld_core.console import Console
from pld_core.errors import ConfigError, StageError
from pld_core.runlog import RunLog
from pld_core.stages.loop import RUN
from pld_core.stages.star import evaluate_star
from pld_core.stages.workspace import STAGES, Workspace
from pld_core.stations import check_station, for_task
from pld_core.strict import build, unflatten


class Pipeline:
    """The whole loop over one run folder; each method is one stage and skips what is finished.

    environment: a task's name, a Gymnasium environment or id, or a callable that makes one;
    base_policy: a BasePolicy, a callable ``observation -> action``, or ``"compact"``;
    reward: a name, a RewardModel or a callable that makes one;
    preset: empty is the one named after the task, else ``custom``;
    settings: dotted keys of TrainConfig over the preset, as in ``**{"learn.steps": 20_000}``.

    Raises ConfigError for settings that cannot work, RobotUnavailableError for an arm that does not answer.
    """

    def __init__(
        self,
        environment: Any = None,
        base_policy: Any = None,
        reward: Any = None,
        *,
        preset: str | None = None,
        config: TrainConfig | None = None,
        **settings: Any,
    ) -> None:
        named = {"task": environment, "policy": base_policy, "reward": reward}
        names = {key: value for key, value in named.items() if isinstance(value, str)}
        objects = {key: value for key, value in named.items() if value is not None and key not in names}
        if objects:  # say in config.yaml that something was brought, so that a resume is compared against it
            names |= {key: f"<{describe(value)}>" for key, value in objects.items()}
        settings = {**names, **settings}
        task = settings.get("task")
        start = config or load_config(preset or preset_for(task or TrainConfig.task))
        self.config = validate(_override(for_task(start, task) if task else start, settings))
        _check_named(self.config)
        check_station(self.config.robot, self.config.task, self.config.runner)
        self._objects = objects

    @classmethod
    def from_config(cls, config: TrainConfig) -> Pipeline:
        return cls(config=config)

    # -- the verbs -------------------------------------------------------------------------------

    def train(self) -> Any:
        """Run every stage that is not finished; returns VLA* (or the base where it cannot be trained)."""
        with self._open(STAGES) as work:
            for stage in STAGES:
                self._stage(work, stage)
            return work.distilled or work.policy

    def harvest(self) -> None:
        self._until("harvest")

    def learn(self) -> None:
        self._until("learn")

    def probe(self) -> None:
        self._until("probe")

    def distill(self) -> None:
        self._until("distill")

    def evaluate(self) -> dict[str, Any]:
        self._until("eval")
        return json.loads((Path(self.config.runs_dir) / self.config.run_name / "eval.json").read_text())

    def evaluate_star(self, policy: Any) -> dict[str, Any]:
        """Evaluate a policy that was made elsewhere (a name or an object) on the same seeds, as this run's VLA*."""
        with self._open(("eval",)) as work:
            return evaluate_star(work, policy)

    def _until(self, last: str) -> None:
        """Run one stage; its predecessors must be finished, apart from the base, which costs nothing."""
        with self._open((last,)) as work:
            for stage in STAGES[1 : STAGES.index(last)]:
                if not work.log.stage_done(stage):
                    raise StageError(f"Stage {last!r} needs {stage!r} first: run `pld {stage}` with the same flags.")
            self._stage(work, "base")
            self._stage(work, last)

    # -- one stage -------------------------------------------------------------------------------

    @contextmanager
    def _open(self, stages: tuple[str, ...]) -> Any:
        title = f"PLD {self.config.task} -> {Path(self.config.runs_dir) / self.config.run_name}"
        with RunLog(self.config) as log, Console(stages, title, on_progress=log.tick) as console:
            work = Workspace(self.config, log, console, self._objects)
            try:
                yield work
            finally:
                work.close()

    def _stage(self, work: Workspace, stage: str) -> None:
        if work.log.stage_done(stage) and stage != "report":
            work.console.skip(stage)
            return
        work.log.begin_stage(stage)
        result = RUN[stage](work)
        work.log.finish_stage(stage, **result, **_asked(work.policy))


def _asked(policy: Any) -> dict[str, float]:
    """How long a policy that another process serves took for its last answers, if it was asked."""
    times = getattr(policy, "times", None)
    return {} if times is None else {f"policy_{name}": value for name, value in times.summary().items()}


def _check_named(config: TrainConfig) -> None:
    """Refuse the preset for tasks and policies of one's own where none was given."""
    if config.task == UNNAMED:
        raise ConfigError("No task is named: give --task NAME, or Pipeline(environment=...).")
    if config.policy == UNNAMED:
        raise ConfigError(f"No base policy is named for task {config.task!r}: give --policy NAME, or base_policy=...")


def _override(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    check_keys(settings)
    return build(config, unflatten(settings), source="the settings") if settings else config


def describe(value: Any) -> str:
    """A stable name of something brought along, for config.yaml."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
