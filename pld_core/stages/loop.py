"""Each stage of the loop, wired to a run's workspace. Every function returns what stages/<name>.json keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from pld_core.checkpoint import save_checkpoint
from pld_core.data.episode_store import EpisodeStore
from pld_core.data.replay import ReplayBuffer
from pld_core.stages.base import make_base, remove_leftovers
from pld_core.stages.demonstrate import BurstNoise, demonstrate, demonstrations
from pld_core.stages.distill import check_distiller, run_distill
from pld_core.stages.evaluation import run_eval
from pld_core.stages.forgetting import check_other_tasks
from pld_core.stages.harvest import harvest, successful
from pld_core.stages.learn import ResidualLearning
from pld_core.stages.probe import probe, probe_spec
from pld_core.stages.report import write_report
from pld_core.stages.videos import write_videos
from pld_core.stages.workspace import Workspace
from pld_core.types import Episode, EpisodeSpec

Result = dict[str, Any]
DEMONSTRATIONS_APART = 100  # run seeds between the demonstrations that a base learns from and those of a baseline


def run_base(work: Workspace) -> Result:
    """Make the base anew with ``from_scratch``; otherwise only see that it is there, and that it can be distilled."""
    own = work.folder / "checkpoints" / "base.vla"
    if work.config.from_scratch and not own.exists():
        with work.console.stage("base") as shown:
            make_base(work.config, own, lambda phase, done, loss: shown.update(done, phase=phase, loss=loss))
    remove_leftovers(own)  # of a process that was killed as soon as it had a base
    check_distiller(work)
    check_other_tasks(work)
    return {"policy": work.policy.version, "action_horizon": work.policy.action_horizon}


def run_harvest(work: Workspace) -> Result:
    config = work.config.harvest
    with work.console.stage("harvest", config.successes, "successes") as shown:
        harvest(
            work.runner,
            work.harvest,
            work.task,
            work.config.seed,
            config.successes,
            config.max_episodes,
            work.learns_from_images,
            on_progress=lambda done, metrics: shown.update(done, **metrics),
        )
    episodes = len(work.harvest)
    kept = len(successful(work.harvest))
    steps = sum(len(e) for e in work.harvest)
    return {"episodes": episodes, "successes": kept, "env_steps": steps}


def run_learn(work: Workspace) -> Result:
    config, algorithm = work.config.learn, work.algorithm
    environment = work.environment
    make_buffer = partial(
        ReplayBuffer,
        config.replay_capacity,
        work.state_dim,
        environment.action_spec.dim,
        work.image_specs,
        config.gamma,
    )
    offline, online = make_buffer(n_step=config.n_step), make_buffer(n_step=config.n_step)
    with work.console.stage("learn", config.steps, "steps") as shown:

        def log(row: dict[str, Any]) -> None:
            if "calql_updates" in row:
                work.log.log("calql", int(row["calql_updates"]), **row)
                return
            steps = int(row.pop("env_steps"))
            work.log.log("learn", steps, **row)
            brief = {k: row[k] for k in ("success_rate", "eval/success_rate", "q_data", "temperature") if k in row}
            shown.update(steps, **brief)

        learning = ResidualLearning(
            config, algorithm, work.learner, work.runner, work.task, environment.max_steps, work.config.seed,
            offline, online, work.folder / "checkpoints" / "learn.ckpt", log,
        )  # fmt: skip
        if learning.resume():
            work.log.rewind("learn", learning.progress.env_steps)
            work.log.rewind("calql", learning.progress.calql_updates)
            shown.resume_at(learning.progress.env_steps)
        else:
            work.log.rewind("learn", -1)
            work.log.rewind("calql", -1)
            warmup = [e for e in islice(work.harvest, config.warmup_episodes) if not e.voided]
            learning.start(successful(work.harvest), warmup)
        params = learning.run().params
    arrays = {"actor": params.actor, "encoder": params.encoder, "normalizer": params.normalizer}
    save_checkpoint(work.specialist_path, arrays, {"policy_version": work.policy.version, "xi": config.xi_max})
    return {
        "env_steps": learning.progress.env_steps,
        "updates": learning.progress.updates,
        "best_validation": learning.progress.best_rate,
        "bytes_per_transition": online.bytes_per_transition,
    }


def run_probe(work: Workspace) -> Result:
    """Data for distillation: probed by base and specialist, or one of the baselines' sources."""
    config, source = work.config.probe, work.config.distill.data
    task, horizon = work.task, work.environment.max_steps
    with work.console.stage("probe", config.episodes, "episodes") as shown:
        if source == "oracle":
            return _demonstrate(work, work.probe, config.episodes, shown.update)
        actor = None if source == "base" else work.specialist()
        xi = work.config.learn.xi_max
        return probe(
            work.runner,
            actor,
            work.probe,
            lambda seed: (
                EpisodeSpec(task, seed) if actor is None else probe_spec(task, seed, config.alpha, horizon, xi)
            ),
            work.config.seed,
            config.episodes,
            on_progress=lambda done, metrics: shown.update(done, **metrics),
        )


def _demonstrate(work: Workspace, store: EpisodeStore, episodes: int, update: Callable[..., None]) -> Result:
    seed = work.config.seed + DEMONSTRATIONS_APART

    def attempts(first: int) -> Generator[tuple[int, Episode], None, None]:
        made = demonstrations(work.runner.runner.environments, seed, BurstNoise(), first)
        try:
            while True:
                yield work.runner.call(lambda: next(made))
        finally:
            work.runner.call(made.close)

    demonstrate(attempts, store, episodes, lambda done, metrics: update(done, **metrics))
    return {"kept": len(store), "length": float(np.mean([len(e) for e in store]))}


def run_report(work: Workspace) -> Result:
    with work.console.stage("report"):
        if work.config.report.videos and callable(getattr(work.environment, "render", None)):
            write_videos(work)
        path = write_report(work.folder)
    work.console.note(_closing(work, path))
    return {"path": path.name}


def _closing(work: Workspace, path: Any) -> str:
    outcome = json.loads((work.folder / "eval.json").read_text())
    parts = [
        f"{name} {outcome[name]['successes']}/{outcome[name]['episodes']}"
        for name in ("base", "specialist", "distilled")
        if name in outcome
    ]
    for name, found in outcome.get("by_reward", {}).items():
        wrong, missed = found["false_successes"], found["missed_successes"]
        parts.append(f"{name} by the reward {found['successes']} ({wrong} false, {missed} missed)")
    return f"{', '.join(parts)}; report: {path}"


RUN: dict[str, Callable[[Workspace], Result]] = {
    "base": run_base,
    "harvest": run_harvest,
    "learn": run_learn,
    "probe": run_probe,
    "distill": run_distill,
    "eval": run_eval,
    "report": run_report,
}
