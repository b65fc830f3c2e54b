"""Oracle demonstrations, for the first SFT of a base policy and as the "human" data baseline."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import EpisodeLostError, PLDError, StageError
from pld_core.interfaces import SimulatedEnvironment, begin_step, set_pictures
from pld_core.stages.seeds import training_seeds
from pld_core.types import EXPERT_TICK, Episode, EpisodeSpec, TimeStep
from pld_core.vla.frames import push_scale

MOST_ATTEMPTS = 20  # at a demonstration


@dataclass(frozen=True)
class BurstNoise:
    """Pushes the expert off its path for a few ticks at a time, so that it shows how to recover.

    probability: chance per tick that a burst starts; ticks: mean length; scale: size in units of
    normalised action. The clean command is what the demonstration stores.
    """

    probability: float = 0.06
    ticks: float = 5.0
    scale: float = 0.6


def demonstrate(
    attempts: Callable[[int], Generator[tuple[int, Episode], None, None]],
    store: EpisodeStore,
    episodes: int,
    on_progress: Callable[[int, dict[str, float]], None] = lambda done, metrics: None,
) -> None:
    """Fill ``store`` up to ``episodes`` successes of the oracle, from where it was left.

    attempts: ``demonstrations`` from an attempt on. Raises StageError where nearly all of them fail.
    """
    first = max((int(m["attempt"]) + 1 for m in store.metadata()), default=0)
    with contextlib.closing(attempts(first)) as made:
        while len(store) < episodes:
            attempt, episode = next(made)
            if episode.success:
                store.append(episode, attempt=attempt)
                on_progress(len(store), {"oracle_success": len(store) / (attempt + 1)})
            elif attempt >= MOST_ATTEMPTS * episodes:
                raise StageError(
                    f"The oracle succeeded in only {len(store)} of {attempt + 1} episodes of {episode.spec.task!r}."
                )


def demonstrations(
    environments: Sequence[SimulatedEnvironment], run_seed: int, noise: BurstNoise | None = None, first: int = 0
) -> Generator[tuple[int, Episode], None, None]:
    """Endless ``(attempt, episode)`` of any outcome, from attempt ``first`` on; attempt k always has the k-th seed.

    Each environment has an attempt of its own in hand, those whose ticks run elsewhere all at once. Close it before
    the environments are used for something else.
    """
    seeds = enumerate(islice(training_seeds("demonstrate", run_seed), first, None), start=first)
    begun: list[_Attempt | None] = [None] * len(environments)
    ended: dict[int, Episode] = {}
    try:
        while True:
            for place, environment in enumerate(environments):
                one = begun[place] = begun[place] or _Attempt(*next(seeds), environment, noise)
                if (episode := one.tick()) is not None:
                    begun[place], ended[one.number] = None, episode
            while first in ended:
                yield first, ended.pop(first)
                first += 1
    finally:
        for one in filter(None, begun):
            with contextlib.suppress(PLDError):  # a worker that died over what nobody needs any more
                one.close()


class _Attempt:
    """A demonstration that goes on tick by tick, and begins again if its environment's process is lost."""

    def __init__(self, number: int, seed: int, environment: SimulatedEnvironment, noise: BurstNoise | None) -> None:
        self.number, self._begin = number, partial(_demonstrate, environment, seed, noise)
        self._ticks = self._begin()

    def tick(self) -> Episode | None:
        """Begin another tick once the last one has ended; the episode if that was the end."""
        try:
            return next(self._ticks)
        except StopIteration as end:
            return end.value
        except EpisodeLostError as loss:
            warnings.warn(f"{loss} The demonstration begins again.", stacklevel=2)
            self._ticks = self._begin()
            return None

    def close(self) -> None:
        self._ticks.close()


def demonstration(environment: SimulatedEnvironment, seed: int, noise: BurstNoise | None) -> Episode:
    """An episode of any outcome from ``reset(seed)``; ``noise`` pushes the expert off its path."""
    attempt = _Attempt(0, seed, environment, noise)
    while (episode := attempt.tick()) is None:
        pass
    return episode


def _demonstrate(
    environment: SimulatedEnvironment, seed: int, noise: BurstNoise | None
) -> Generator[None, None, Episode]:
    """Waits in every tick that it has begun, and ends that one wherever it is closed."""
    rng = np.random.default_rng(seed)
    set_pictures(environment, image_every=1)  # a picture of every tick is what a demonstration is for
    step, oracle = environment.reset(seed), environment.oracle()
    oracle.reset()
    steps, clean, executed = [step], [], []
    scale = push_scale(environment.action_spec)
    burst, remaining = np.zeros(environment.action_spec.dim, np.float32), 0
    while not step.last:
        command = np.asarray(oracle.act(), np.float32)
        if noise is not None and remaining == 0 and rng.random() < noise.probability:
            remaining = 1 + rng.poisson(noise.ticks - 1)
            burst = (scale * rng.normal(0.0, noise.scale, len(command))).astype(np.float32)
            if environment.action_spec.gripper is not None:
                burst[environment.action_spec.gripper] = 0.0  # opened by accident, it ends the demonstration
        pushed = np.clip(command + burst, -1, 1) if remaining else command
        remaining = max(0, remaining - 1)
        end_tick = begin_step(environment, pushed)
        try:
            yield
        finally:
            step = end_tick()
        steps.append(step)
        clean.append(command)
        executed.append(pushed)
    return assemble(EpisodeSpec(environment.task, seed, "oracle"), steps, np.stack(clean), np.stack(executed))


def assemble(spec: EpisodeSpec, steps: Sequence[TimeStep], clean: np.ndarray, executed: np.ndarray) -> Episode:
    """The episode of an expert: steps ``[T + 1]`` of the environment, clean and executed commands ``[T, A]``."""
    first, last, ticks = steps[0].observation, steps[-1], len(clean)
    proprio = np.stack([s.observation.proprio for s in steps])
    return Episode(
        spec=spec,
        instruction=first.instruction,
        proprio=proprio,
        state=proprio,
        images={name: np.stack([s.observation.images[name] for s in steps]) for name in first.images},
        base_action=np.concatenate([clean, clean[-1:]]),
        residual=executed - clean,
        action=clean,
        reward=np.array([s.reward for s in steps[1:]], np.float32),
        source=np.full(ticks, EXPERT_TICK, np.uint8),
        intervention=np.zeros(ticks, bool),
        terminated=last.terminated,
        truncated=last.truncated,
        success=last.success,
        policy_version="oracle",
    )
