"""Each stage of the loop, wired to a run's workspace. Every function returns what stages/<name>.json keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from pld_core.checkpoint import save_checkpoint
from pld_core.data.episode_store import EpisodeStore
from pld_core.data.replay import ReplayBuffer
from pld_core.stages.base import make_base
from pld_core.stages.demonstrate import BurstNoise, demonstrate
from pld_core.stages.evaluate import Evaluation, evaluate
from pld_core.stages.harvest import harvest, successful
from pld_core.stages.learn import ResidualLearning
from pld_core.stages.probe import probe, probe_spec
from pld_core.stages.report import write_report
from pld_core.stages.seeds import test_seeds
from pld_core.stages.videos import write_videos
from pld_core.stages.workspace import Workspace
from pld_core.storage import write_json
from pld_core.types import EpisodeSpec
from pld_core.vla.compact_vla import CompactVLA

Result = dict[str, Any]


def run_base(work: Workspace) -> Result:
    """Make the base anew with ``from_scratch``; otherwise only see that it is there."""
    own = work.folder / "checkpoints" / "base.vla"
    if work.config.from_scratch and not own.exists():
        with work.console.stage("base") as shown:
            make_base(work.config, own, lambda phase, done, loss: shown.update(done, phase=phase, loss=loss))
    return {"policy": work.policy.version}


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
            steps = int(row.pop("env_steps", 0))
            work.log.log("learn", steps, **row)
            brief = {k: row[k] for k in ("success_rate", "eval/success_rate", "q_data", "temperature") if k in row}
            shown.update(steps, **brief)

        learning = ResidualLearning(
            config, algorithm, work.learner, work.runner, work.task, environment.max_steps, work.config.seed,
            offline, online, work.folder / "checkpoints" / "learn.ckpt", log,
        )  # fmt: skip
        if learning.resume():
            work.log.rewind("learn", learning.progress.env_steps)
            shown.resume_at(learning.progress.env_steps)
        else:
            warmup = [e for e, _ in zip(work.harvest, range(config.warmup_episodes), strict=False)]
            learning.start(successful(work.harvest), warmup)
        params = learning.run().params
    arrays = {"actor": params.actor, "encoder": params.encoder, "normalizer": params.normalizer}
    save_checkpoint(work.specialist_path, arrays, {"policy_version": work.policy.version, "xi": config.xi_max})
    return {
        "env_steps": learning.progress.env_steps,
        "updates": learning.progress.updates,
        "best_validation": learning.progress.best_rate,
        "seconds": learning.progress.seconds,
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
    environment = work.environment
    missing = max(0, episodes - len(store))
    made = work.runner.call(
        lambda: demonstrate(environment, episodes, work.config.seed + 100, BurstNoise(), lambda n, m: update(n, **m))  # type: ignore[arg-type]
    )
    for episode in made[episodes - missing :]:
        store.append(episode)
    return {"kept": len(store), "length": float(np.mean([len(e) for e in store]))}


def run_distill(work: Workspace) -> Result:
    config = work.config.distill
    if not isinstance(work.policy, CompactVLA):
        work.console.skip("distill", f"{type(work.policy).__name__} cannot be trained: the specialist is the result")
        return {"skipped": "the base policy has no sft()"}
    with work.console.stage("distill", config.steps, "updates") as shown:
        episodes = list(work.probe)
        folder = work.log.checkpoint_dir("distill")

        def progress(step: int, loss: float) -> None:
            shown.update(step, loss=loss)
            work.log.log("distill", 0, updates=step, loss=loss)

        star = work.policy.sft(
            episodes, mode=config.mode, rank=config.rank, steps=config.steps, batch_size=config.batch_size,
            learning_rate=config.learning_rate, seed=work.config.seed, state_path=folder / "sft.state",
            progress=progress,
        )  # fmt: skip
        star.save(work.distilled_path)
    return {"policy": star.version, "episodes": len(episodes), "ticks": sum(len(e) for e in episodes)}


def run_eval(work: Workspace) -> Result:
    """Base, specialist and VLA* on the same held-out seeds; writes eval.json."""
    config = work.config
    seeds = test_seeds(config.evaluate.episodes)
    xi = config.learn.xi_max
    with work.console.stage("eval", 3 * len(seeds), "episodes") as shown:

        def judged(name: str, offset: int, run: Callable[..., Evaluation]) -> Evaluation:
            result = run(on_progress=lambda n, metrics: shown.update(offset + n, **{name: metrics["success_rate"]}))
            work.log.log("eval", 0, policy=name, **{"success_rate": result.rate, "length": result.mean_length})
            return result

        results = {"base": judged("base", 0, partial(evaluate, work.runner, work.task, seeds))}
        results["specialist"] = judged(
            "specialist", len(seeds), partial(evaluate, work.runner, work.task, seeds, work.specialist(), xi)
        )
        star = work.distilled
        if star is not None:
            results["distilled"] = judged(
                "distilled", 2 * len(seeds), partial(evaluate, work.runner.with_policy(star), work.task, seeds)
            )
    outcome = {"task": work.task, "seed": config.seed, "minutes": round(work.minutes(), 2)}
    outcome |= {name: result.summary() for name, result in results.items()}
    write_json(work.folder / "eval.json", outcome)
    write_json(work.folder / "outcomes.json", {name: result.outcomes for name, result in results.items()})
    return {}


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
