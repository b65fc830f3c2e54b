"""The evaluation stage: success on held-out seeds, drift of the actions, forgetting of other tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pld_core.stages.background import BackgroundRunner
from pld_core.stages.drift import HeldOutStates, check_samples, run_drift
from pld_core.stages.evaluate import Evaluation, evaluate
from pld_core.stages.forgetting import run_forgetting
from pld_core.stages.seeds import test_seeds
from pld_core.stages.workspace import Workspace
from pld_core.storage import write_json


def run_eval(work: Workspace) -> dict[str, Any]:
    """Base, specialist and VLA* on the same held-out seeds; writes eval.json, drift.json and forgetting.json.

    Judged by the environment. A reward that sees for itself judges a second time, in episodes that end at
    its word as on a robot: ``by_reward`` has its count, and how often the environment disagreed.
    """
    config, settings = work.config, work.config.evaluate
    seeds = test_seeds(settings.episodes)
    xi = config.learn.xi_max
    judge, star = work.judge, work.distilled
    runs: dict[str, Callable[..., Evaluation]] = {
        "base": lambda runner, **show: evaluate(runner, work.task, seeds, **show),
        "specialist": lambda runner, **show: evaluate(runner, work.task, seeds, work.specialist(), xi, **show),
    }
    if star is not None:
        runs["distilled"] = lambda runner, **show: evaluate(runner.with_policy(star), work.task, seeds, **show)
    if settings.drift_states:
        check_samples(settings.drift_samples, work.environment.action_spec)
    states = HeldOutStates(
        settings.drift_states, settings.episodes, min(config.replan_every, work.policy.action_horizon)
    )
    kept = {"base": work.policy} | ({"distilled": star} if star is not None else {})
    others = len(kept) * len(settings.other_tasks) * settings.other_episodes
    results: dict[str, Evaluation] = {}
    by_reward: dict[str, Evaluation] = {}
    done = 0
    with work.console.stage("eval", (2 if judge else 1) * len(runs) * len(seeds) + others, "episodes") as shown:

        def judged(label: str, run: Callable[..., Evaluation], runner: BackgroundRunner, **look: Any) -> Evaluation:
            nonlocal done
            before = done
            result = run(
                runner,
                on_progress=lambda n, metrics: shown.update(before + n, **{label: metrics["success_rate"]}),
                **look,
            )
            done += len(seeds)
            work.log.log("eval", 0, policy=label, **{"success_rate": result.rate, "length": result.mean_length})
            return result

        for name, run in runs.items():
            look = {"recorded": states.episodes, "see": partial(states.see, name)} if states.wants(name) else {}
            results[name] = judged(name, run, judge or work.runner, **look)
            if judge:
                by_reward[name] = judged(f"{name}_by_reward", run, work.runner)
        outcome = {"task": work.task, "seed": config.seed, "minutes": round(work.minutes(), 2)}
        outcome |= {name: result.summary() for name, result in results.items()}
        if by_reward:
            outcome["by_reward"] = {name: result.by_reward() for name, result in by_reward.items()}
        write_json(work.folder / "eval.json", outcome)
        write_json(work.folder / "outcomes.json", {name: result.outcomes for name, result in results.items()})
        run_drift(work, states.all(), star)
        if settings.other_tasks:  # the base alone too: a VLA* that is made elsewhere comes later (stages/star.py)
            run_forgetting(work, kept, lambda n, what: shown.update(done + n, other=what))
    return {}
