"""Whether VLA* still does what the base did: success of both on tasks that were not trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any

from pld_core import bring
from pld_core.errors import ConfigError
from pld_core.interfaces import BasePolicy, Environment
from pld_core.rewards import BinaryReward
from pld_core.stages.background import BackgroundRunner
from pld_core.stages.evaluate import evaluate
from pld_core.stages.runner import LocalRunner
from pld_core.stages.seeds import test_seeds
from pld_core.stages.workspace import Workspace
from pld_core.storage import write_json


def check_other_tasks(work: Workspace) -> None:
    """ConfigError for a task of ``evaluate.other_tasks`` in which the base could not act."""
    for task in work.config.evaluate.other_tasks:
        with _runner(work, task, lanes=1):
            pass


def run_forgetting(
    work: Workspace, policies: Mapping[str, BasePolicy], on_progress: Callable[[int, str], None]
) -> None:
    """Run the policies on the same held-out seeds of each other task; ``forgetting.json`` has what is done.

    Interrupted, it goes on with the first task and policy that is missing there. What it has of policies that are not
    given stays.
    """
    config = work.config.evaluate
    path = work.folder / "forgetting.json"
    versions = {name: policy.version for name, policy in policies.items()}
    tasks: dict[str, dict[str, Any]] = {}
    with suppress(OSError, ValueError, AttributeError, KeyError):
        found = json.loads(path.read_text(encoding="utf-8"))
        before, rates = found["policies"], found["tasks"]
        versions = before | versions
        same = {name for name, version in before.items() if versions[name] == version}
        tasks = {task: {name: rate for name, rate in had.items() if name in same} for task, had in rates.items()}
    done = 0
    for task in config.other_tasks:
        have = tasks.setdefault(task, {})
        missing = {name: policy for name, policy in policies.items() if name not in have}
        done += (len(policies) - len(missing)) * config.other_episodes
        if not missing:
            continue
        with _runner(work, task, work.config.lanes) as runner:
            for name, policy in missing.items():
                have[name] = _evaluated(runner.with_policy(policy), config.other_episodes)
                write_json(path, {"policies": versions, "tasks": tasks})
                done += config.other_episodes
                on_progress(done, f"{task} {name}")


def _evaluated(runner: BackgroundRunner, episodes: int) -> Mapping[str, Any]:
    task = runner.runner.environments[0].task  # which another name may stand for
    return evaluate(runner, task, test_seeds(episodes)).summary()


@contextmanager
def _runner(work: Workspace, task: str, lanes: int) -> Any:
    """Environments of another task beside the run's own, judged by themselves."""
    config, algorithm = work.config, work.algorithm
    factory = bring.environment_factory(task)
    settings = config.replan_every, algorithm.residual, config.learn.policy_features

    def make() -> LocalRunner:
        environments = factory(lanes)
        try:
            _check_specs(work.config.task, own, task, environments[0])
        except ConfigError:
            for environment in environments:
                environment.close()
            raise
        return LocalRunner(environments, work.policy, BinaryReward, *settings)

    own = work.environment
    with closing(BackgroundRunner(make)) as runner:
        yield runner


def _check_specs(task: str, own: Environment, other: str, environment: Environment) -> None:
    """Cameras, proprioception and actions must be of the same sizes: the policies take and give no others."""
    ours, theirs = _sizes(own), _sizes(environment)
    if different := [f"{name} {theirs[name]} instead of {ours[name]}" for name in ours if theirs[name] != ours[name]]:
        raise ConfigError(
            f"evaluate.other_tasks names {other!r}, in which policies of {task!r} cannot act: {'; '.join(different)}. "
            "Name tasks of the same robot and cameras."
        )


def _sizes(environment: Environment) -> dict[str, Any]:
    seen = environment.observation_spec
    cameras = {name: tuple(size) for name, size in sorted(seen.cameras.items())}
    return {"cameras": cameras, "proprio_dim": seen.proprio_dim, "action size": environment.action_spec.dim}
