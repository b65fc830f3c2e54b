"""Labelled episodes for a success classifier: what a policy in training will show it, near misses above all.

Every episode runs on for a few ticks after its first success, so that success is seen for longer than
one frame, and its ``reward`` column says of every frame after the first whether the task is done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import ConfigError
from pld_core.interfaces import BasePolicy, Environment, SimulatedEnvironment
from pld_core.stages.demonstrate import BurstNoise, assemble
from pld_core.stages.runner import LocalRunner
from pld_core.stages.seeds import training_seeds
from pld_core.types import ActionSpec, Episode, EpisodeSpec, TimeStep

SOURCES = ("base", "noisy base", "near miss", "oracle", "noisy base", "near miss")  # attempt k has the k-th, in turn
AFTER_SUCCESS = 25  # ticks that an episode runs on: a success is seen for as long as a near miss
BEFORE_SUCCESS = 6  # ticks before its success at which the oracle of a near miss slows down
HOLD = 25  # ticks for which a near miss stays where it stopped: a stuck frame is like the next
ROUND = 24  # episodes between two stores
Command = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[int, dict[str, float]], None]


class Onlooker:
    """Labels without judging: reward is the environment's success at this moment, the end comes ``after`` ticks later.

    Implements interfaces.RewardModel.
    """

    sees_for_itself = True  # so that the environment runs on

    def __init__(self, after: int = AFTER_SUCCESS) -> None:
        self._after = after
        self.reset()

    def reset(self) -> None:
        self._ticks = -1  # since the first success

    def score(self, step: TimeStep) -> tuple[float, bool]:
        if step.success or self._ticks >= 0:
            self._ticks += 1
        return float(step.success), self._ticks >= self._after


class RandomResiduals:
    """Residuals at random, as an untrained specialist has them. Implements interfaces.ResidualActor."""

    def __init__(self, actions: ActionSpec) -> None:
        self._actions = actions

    def act(
        self, state: np.ndarray, base_action: np.ndarray, images: Mapping[str, np.ndarray], seeds: np.ndarray | None
    ) -> np.ndarray:
        numbers = np.zeros(len(state), np.uint32) if seeds is None else seeds
        drawn = np.stack([np.random.default_rng(int(n)).uniform(-1, 1, self._actions.dim) for n in numbers])
        if self._actions.gripper is not None:
            drawn[:, self._actions.gripper] = 0.0  # a dropped part ends all that could be learnt
        return drawn.astype(np.float32)


def collect_labelled(
    environments: Sequence[Environment],
    policy: BasePolicy,
    store: EpisodeStore,
    episodes: int,
    run_seed: int,
    on_progress: Progress = lambda done, metrics: None,
) -> None:
    """Append labelled episodes of the mixture ``SOURCES`` until attempt ``episodes``; a rerun goes on where it stopped.

    Attempt k is the same episode whenever it is made. Raises ConfigError for a store that another policy or task
    began.
    """
    if not (hasattr(environments[0], "stop_at_success") and hasattr(environments[0], "oracle")):
        raise ConfigError(
            f"{type(environments[0]).__name__} is no simulator that runs on after a success (stop_at_success) and has "
            "an oracle. Record labelled episodes and give their folder with --data."
        )
    made_by = {"task": environments[0].task, "policy": policy.version}
    _refuse_another(store, made_by)
    runner = LocalRunner(environments, policy, Onlooker)
    done = 1 + max((int(m["attempt"]) for m in store.metadata()), default=-1)
    while done < episodes:
        attempts = range(done, min(done + ROUND, episodes))
        for attempt, episode in zip(attempts, _round(runner, run_seed, attempts), strict=True):
            succeeds = bool(episode.reward.any())
            store.append(episode, attempt=attempt, source=source_of(attempt), succeeds=succeeds, **made_by)
        done = attempts.stop
        on_progress(done, {"with_success": float(np.mean([m["succeeds"] for m in store.metadata()]))})


def _refuse_another(store: EpisodeStore, made_by: Mapping[str, str]) -> None:
    """Stores that say less of their making are taken as they are."""
    for metadata in store.metadata():
        for what, value in made_by.items():
            if metadata.get(what, value) != value:
                raise ConfigError(
                    f"{store.folder} holds episodes of {what} {metadata[what]}, not {value}. Give another --out."
                )


def source_of(attempt: int) -> str:
    return SOURCES[attempt % len(SOURCES)]


def _round(runner: LocalRunner, run_seed: int, attempts: range) -> Iterator[Episode]:
    """The episodes of some attempts, in order; those of the base side by side."""
    seeds = dict(zip(attempts, islice(training_seeds("reward", run_seed), attempts.start, attempts.stop), strict=True))
    environment = runner.environments[0]
    rolled = [k for k in attempts if source_of(k) in ("base", "noisy base")]
    specs = [_spec(environment, seeds[k], noisy=source_of(k) == "noisy base") for k in rolled]
    made = dict(zip(rolled, runner.run(specs, RandomResiduals(environment.action_spec)), strict=True))
    drivers = {"oracle": _oracle_episode, "near miss": _near_miss}
    for attempt in attempts:
        driver = drivers.get(source_of(attempt))
        yield made[attempt] if driver is None else driver(environment, seeds[attempt])  # type: ignore[arg-type]


def _spec(environment: Environment, seed: int, noisy: bool) -> EpisodeSpec:
    """Noise of every size, from one that changes with each tick to one that pushes the same way all along."""
    rng = np.random.default_rng((seed, 2))
    hold = int(rng.choice([1, 2, 5, 15, environment.max_steps]))
    return EpisodeSpec(
        environment.task, seed, "base", t_base=0 if noisy else None, xi=float(rng.uniform(0.1, 0.6)), explore=noisy,
        noise_ticks=hold,
    )  # fmt: skip


def _oracle_episode(environment: SimulatedEnvironment, seed: int) -> Episode:
    """The oracle with bursts of noise, also after its success."""
    rng, noise = np.random.default_rng((seed, 3)), BurstNoise()
    moves = _moves(environment)
    burst, left = np.zeros(environment.action_spec.dim), 0

    def command(expert: np.ndarray) -> np.ndarray:
        nonlocal burst, left
        if left == 0 and rng.random() < noise.probability:
            left = 1 + rng.poisson(noise.ticks - 1)
            burst = rng.normal(0.0, noise.scale, len(expert)) * moves
        left, push = max(0, left - 1), burst * (left > 0)
        return expert + push

    return _drive(environment, seed, command, environment.max_steps)


def _near_miss(environment: SimulatedEnvironment, seed: int) -> Episode:
    """The oracle slows down just before its success, stops anywhere up to it, and holds there or slides off."""
    finish = _ticks_to_success(environment, seed)
    rng, moves = np.random.default_rng((seed, 4)), _moves(environment)
    speed = rng.uniform(0.15, 1.0)
    slow = max(0, finish - BEFORE_SUCCESS)
    stop = slow + int(rng.uniform(0.0, BEFORE_SUCCESS + 1.5) / speed)
    jitter = rng.choice([0.0, 0.1, 0.4])
    slide = rng.uniform(-0.4, 0.4, environment.action_spec.dim) * (rng.random() < 0.4)
    tick = -1

    def command(expert: np.ndarray) -> np.ndarray:
        nonlocal tick
        tick += 1
        if tick < slow:
            return expert
        motion = expert * speed if tick < stop else slide + jitter * rng.normal(size=expert.shape)
        return motion * moves + expert * (1 - moves)

    return _drive(environment, seed, command, stop + HOLD)


def _drive(environment: SimulatedEnvironment, seed: int, command: Command, ticks: int) -> Episode:
    """An episode of at most ``ticks`` ticks in which ``command`` makes the action out of the oracle's."""
    environment.stop_at_success = False  # type: ignore[attr-defined]
    onlooker = Onlooker()
    step, oracle = environment.reset(seed), environment.oracle()
    oracle.reset()
    steps, actions, done = [step], [], False
    while not (step.last or done or len(actions) >= ticks):
        actions.append(np.clip(command(np.asarray(oracle.act(), np.float64)), -1, 1).astype(np.float32))
        step = environment.step(actions[-1])
        steps.append(step)
        done = onlooker.score(step)[1]
    executed = np.stack(actions)
    episode = assemble(EpisodeSpec(environment.task, seed, "oracle"), steps, executed, executed)
    return dataclasses.replace(episode, truncated=True, environment_success=any(s.success for s in steps))


def _ticks_to_success(environment: SimulatedEnvironment, seed: int) -> int:
    """How long the oracle takes from this start; the time limit if it fails."""
    environment.stop_at_success = True  # type: ignore[attr-defined]
    environment.renders_cameras = False
    try:
        step, oracle, ticks = environment.reset(seed), environment.oracle(), 0
        oracle.reset()
        while not step.last:
            step, ticks = environment.step(np.asarray(oracle.act(), np.float32)), ticks + 1
    finally:
        environment.renders_cameras = True
    return ticks


def _moves(environment: Environment) -> np.ndarray:
    """1 for entries of an action that are motions, 0 for a gripper's state."""
    moves = np.ones(environment.action_spec.dim)
    if environment.action_spec.gripper is not None:
        moves[environment.action_spec.gripper] = 0.0
    return moves
