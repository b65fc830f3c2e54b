"""A policy that was made elsewhere, on the seeds that a run's own were evaluated on."""

from __future__ import annotations

import json
from typing import Any

from pld_core import bring
from pld_core.errors import ConfigError, StageError
from pld_core.interfaces import BasePolicy
from pld_core.stages.evaluate import evaluate
from pld_core.stages.forgetting import run_forgetting
from pld_core.stages.report import write_report
from pld_core.stages.seeds import test_seeds
from pld_core.stages.workspace import Workspace
from pld_core.storage import write_json


def evaluate_star(work: Workspace, given: Any) -> dict[str, Any]:
    """Adds the policy to eval.json, outcomes.json, forgetting.json and report.html; answers its summary.

    It counts as the run's VLA*, unless the run has distilled one itself: then it stands under ``others``. The run's
    base is not asked for anything, so its server need not run; hence drift.json stays without this policy.
    """
    if not work.log.stage_done("eval"):
        raise StageError(f"{work.folder} has not evaluated its own policies yet: run `pld eval` first, without --star.")
    if work.config.runner != "local":
        raise ConfigError("--star needs the simulated task; on a robot, launch the station with the policy.")
    name = given if isinstance(given, str) else type(given).__name__
    star: BasePolicy = bring.base_policy(given)
    work.__dict__["policy"] = star  # in place of the base
    settings = work.config.evaluate
    seeds = test_seeds(settings.episodes)
    others = len(settings.other_tasks) * settings.other_episodes
    with work.console.stage("eval", len(seeds) + others, "episodes") as shown:
        result = evaluate(
            work.judge or work.runner, work.task, seeds, on_progress=lambda done, metrics: shown.update(done, **metrics)
        )
        summary = {**result.summary(), "policy": name, "version": star.version}
        _add(work, "eval.json", summary, name)
        _add(work, "outcomes.json", result.outcomes, name)
        if settings.other_tasks:
            label = name if work.distilled_path.exists() else "distilled"
            run_forgetting(work, {label: star}, lambda n, what: shown.update(len(seeds) + n, other=what))
    work.console.note(f"{name} {result.successes}/{result.episodes}; report: {write_report(work.folder)}")
    return summary


def _add(work: Workspace, file: str, value: Any, name: str) -> None:
    found = json.loads((work.folder / file).read_text(encoding="utf-8"))
    if work.distilled_path.exists():
        found["others"] = {**found.get("others", {}), name: value}
    else:
        found["distilled"] = value
    write_json(work.folder / file, found)
