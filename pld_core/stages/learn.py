"""Stage 1: off-policy RL of a residual specialist on top of the frozen base.

Collection and learning overlap, yet the result depends on the seed alone: round ``r + 1`` of
episodes is collected with the weights after round ``r``, while the learner trains on the rounds up
to ``r``; both finish before the next round begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pld_core.checkpoint import load_checkpoint, previous_path, save_checkpoint
from pld_core.config import LearnConfig
from pld_core.data.replay import ReplayBuffer, state_moments
from pld_core.data.symmetric import SymmetricReplay
from pld_core.errors import NonFiniteError
from pld_core.rl.actor import LearnerActor
from pld_core.rl.learner import Learner
from pld_core.rl.presets import Algorithm
from pld_core.rl.state import ActorParams, LearnerState
from pld_core.stages.background import BackgroundRunner
from pld_core.stages.evaluate import Evaluation, summarise
from pld_core.stages.seeds import training_seeds
from pld_core.types import RESIDUAL_TICK, Episode, EpisodeSpec

Log = Callable[[dict[str, float]], None]
ACTOR_LANES = 16  # one compiled size for any number of active lanes, so that no result depends on it
_UPDATES_PER_CALL = 50  # critic updates in one compiled scan


@dataclass
class Progress:
    """Counters that a checkpoint restores."""

    env_steps: int = 0
    updates: int = 0
    calql_updates: int = 0
    rounds: int = 0
    episodes: int = 0
    owed_updates: float = 0.0
    last_evaluation: int = 0
    best_rate: float = -1.0
    seconds: float = 0.0  # of learning, interruptions left out
    finished: bool = False


class ResidualLearning:
    """One specialist in the making; ``run`` returns when the budget or the target is reached."""

    def __init__(
        self,
        config: LearnConfig,
        algorithm: Algorithm,
        learner: Learner,
        runner: BackgroundRunner,
        task: str,
        horizon: int,
        seed: int,
        offline: ReplayBuffer,
        online: ReplayBuffer,
        checkpoint: Path,
        log: Log,
    ) -> None:
        self.config, self.algorithm, self.learner, self.runner = config, algorithm, learner, runner
        self.task, self.horizon, self.seed = task, horizon, seed
        self.replay = SymmetricReplay(offline, online, config.offline_fraction if algorithm.offline_data else 0.0)
        self.offline, self.online = offline, online
        self.checkpoint, self.log, self.round_size = checkpoint, log, config.round_episodes
        self._updates_per_call = updates_per_call(config.critic_updates_per_actor_update)
        self.rng = np.random.default_rng((seed, 0x5AC))
        self.progress = Progress()
        self.state: LearnerState = learner.init(seed)
        self.best: ActorParams | None = None

    # -- the loop --------------------------------------------------------------------------------

    def run(self) -> LearnerActor:
        """Learn until the budget or the target is reached, after ``start`` or ``resume``."""
        saved = began = time.monotonic()
        before = self.progress.seconds
        while not self.progress.finished:
            if self._calql_due:
                self._calql_round()
            else:
                self._round()
            now = time.monotonic()
            self.progress.seconds = before + now - began
            if self.progress.finished or now - saved > self.config.checkpoint_seconds:
                self.save()
                saved = time.monotonic()
        return self.specialist()

    def specialist(self) -> LearnerActor:
        """The actor that did best in validation, or the latest where none was validated."""
        return self._actor(self.learner.actor_params(self.state) if self.best is None else self.best)

    def _actor(self, params: ActorParams) -> LearnerActor:
        return LearnerActor(self.learner, params, ACTOR_LANES)

    def start(self, offline: Sequence[Episode], warmup: Sequence[Episode]) -> None:
        """Fill the buffers, explore a first round, and save: the starting point of ``run``.

        offline: the base's successes; warmup: base-only episodes of any outcome. The first round is
        explored before anything is learnt, because the input scaling must fit the states that the
        policy reaches, not only the few that the base visits. A method that goes online with a policy
        of its own from Cal-QL does not learn from that round: it is not the policy's.
        """
        began = time.monotonic()
        for episode in offline:
            self.offline.add(episode)
        for episode in warmup if self.algorithm.base_starts else ():
            self.online.add(episode)
        for episode in self.runner.run(self._round_specs(), self._actor(self.learner.actor_params(self.state))):
            self._store(episode)
            self.progress.episodes += 1
        self.state = self.learner.with_normalizer(self.state, *state_moments(self.online, self.offline))
        if self.algorithm.calql_warmup and not self.algorithm.base_starts and self.config.calql_steps:
            self.online.clear()
            self.progress.owed_updates = 0.0
        self.progress.seconds = time.monotonic() - began
        self.save()

    @property
    def _calql_due(self) -> bool:
        return self.algorithm.calql_warmup and self.progress.calql_updates < self.config.calql_steps

    def _calql_round(self) -> None:
        """Some updates of the warm start, on offline data alone."""
        batches = self.offline.sample_many(self.rng, self._updates_per_call, self.config.batch_size)
        self.state, metrics = self.learner.calql_update(self.state, batches, self.config.xi_max)
        self.progress.calql_updates += self._updates_per_call
        self.log({"calql_updates": self.progress.calql_updates, **_floats(metrics)})

    def _round(self) -> None:
        """Collect a round with the present weights while the learner trains on what is there."""
        progress = self.progress
        actor = self._actor(self.learner.actor_params(self.state))
        validation = self._validation_specs()
        future = self.runner.submit([*self._round_specs(), *validation], actor)
        metrics = self._update()
        episodes = future.result()
        collected = episodes[: self.round_size]
        for episode in collected:
            self._store(episode)
        progress.rounds += 1
        progress.episodes += len(collected)
        row = {**metrics, "success_rate": float(np.mean([e.success for e in collected])), "xi": self.xi}
        if validation:
            row |= self._validate(summarise(episodes[self.round_size :]), actor)
        progress.finished |= progress.env_steps >= self.config.steps
        self.log({"env_steps": progress.env_steps, "updates": progress.updates, "seconds": progress.seconds, **row})

    def _update(self) -> dict[str, float]:
        """As many critic updates as the steps of the last round have earned."""
        metrics: dict[str, Any] = {}
        if len(self.online) < self.config.batch_size:
            return {}
        while self.progress.owed_updates >= self._updates_per_call:
            batches = self.replay.sample_many(self.rng, self._updates_per_call, self.config.batch_size)
            update = self._update_kind()
            self.state, metrics = update(self.state, batches, self.xi)
            self.progress.owed_updates -= self._updates_per_call
            self.progress.updates += self._updates_per_call
        return _floats(metrics)

    def _update_kind(self) -> Callable[..., tuple[LearnerState, dict[str, Any]]]:
        if self.algorithm.calql_online:
            return self.learner.calql_update
        # A residual that follows an untrained critic leaves the base's neighbourhood and stops succeeding,
        # and without successes the critic never learns better.
        evaluating = self.algorithm.residual and self.progress.env_steps < self.config.critic_warmup_steps
        return self.learner.critic_update if evaluating else self.learner.update

    def _store(self, episode: Episode) -> None:
        """Base-driven first ticks only set the scene: they are not experience of the residual."""
        self.progress.env_steps += len(episode)
        self.progress.owed_updates += len(episode) * self.config.updates_per_step
        acted = np.flatnonzero(episode.source == RESIDUAL_TICK)
        if not len(acted) or episode.voided:
            return
        own = episode.tail(int(acted[0]))
        self.online.add(own)
        if own.success and self.algorithm.grow_offline:
            self.offline.add(own)

    # -- what to collect -------------------------------------------------------------------------

    @property
    def xi(self) -> float:
        """Scale of the residual now: a linear ramp over the first environment steps."""
        ramp = self.config.xi_ramp_steps
        share = min(1.0, (self.progress.env_steps + 1) / ramp) if ramp else 1.0
        return self.config.xi_max * share

    def _round_specs(self) -> list[EpisodeSpec]:
        start = self.progress.episodes
        seeds = islice(training_seeds("learn", self.seed), start, start + self.round_size)
        return [self._spec(seed) for seed in seeds]

    def _spec(self, seed: int) -> EpisodeSpec:
        rng = np.random.default_rng((seed, 1))
        jumps = self.algorithm.base_starts and rng.random() < self.config.jump_start
        t_base = int(rng.integers(0, int(self.config.jump_start_max * self.horizon) + 1)) if jumps else 0
        images = self.learner.config.encoder == "resnet10"
        hold = self.config.noise_ticks
        return EpisodeSpec(self.task, seed, "learn", t_base, self.xi, True, noise_ticks=hold, record_images=images)

    def _validation_specs(self) -> list[EpisodeSpec]:
        config, progress = self.config, self.progress
        due = config.eval_every and progress.env_steps - progress.last_evaluation >= config.eval_every
        if not (due or (config.eval_every and progress.rounds == 0)):
            return []
        progress.last_evaluation = progress.env_steps
        seeds = islice(training_seeds("validate", self.seed), config.eval_episodes)
        return [EpisodeSpec(self.task, s, "evaluate", 0, self.xi, record_images=False) for s in seeds]

    def _validate(self, result: Evaluation, actor: LearnerActor) -> dict[str, float]:
        fully_on = self.progress.last_evaluation >= self.config.xi_ramp_steps
        reached = result.successes / len(result.outcomes)  # a few that are not void must not decide
        if fully_on and reached >= self.progress.best_rate:
            self.progress.best_rate, self.best = reached, actor.params
        if reached >= self.config.target_success:
            self.progress.finished = True
        return {
            "eval/success_rate": result.rate,
            "eval/length": result.mean_length,
            "eval/ci_low": result.ci95[0],
            "eval/ci_high": result.ci95[1],
            "eval/env_steps": self.progress.last_evaluation,
        }

    # -- checkpoints -----------------------------------------------------------------------------

    def save(self) -> None:
        """Weights, optimisers, buffers, random states and counters, in one atomic file."""
        arrays = {
            "learner": self.state.to_arrays(),
            "best": {} if self.best is None else vars(self.best),
            "offline": self.offline.state_dict(),
            "online": self.online.state_dict(),
        }
        save_checkpoint(
            self.checkpoint, arrays, {"progress": asdict(self.progress), "rng": self.rng.bit_generator.state}
        )

    def resume(self) -> bool:
        """Go on from the checkpoint; False if there is none."""
        if not (self.checkpoint.exists() or previous_path(self.checkpoint).exists()):
            return False
        arrays, metadata = load_checkpoint(self.checkpoint)
        self.state = self.state.with_arrays(arrays["learner"])
        self.best = actor_params(arrays["best"]) if arrays.get("best") else None
        self.offline.load_state_dict(arrays["offline"])
        self.online.load_state_dict(arrays["online"])
        self.progress = Progress(**metadata["progress"])
        self.rng.bit_generator.state = metadata["rng"]
        return True


def updates_per_call(ratio: int) -> int:
    """Critic updates in one compiled scan: about 50, and whole groups of ``ratio`` of them to an actor update."""
    return max(1, _UPDATES_PER_CALL // ratio) * ratio


def actor_params(arrays: dict[str, Any]) -> ActorParams:
    """Weights of an actor as a checkpoint gives them back."""
    return ActorParams(arrays["actor"], arrays.get("encoder", {}), arrays["normalizer"])


def _floats(metrics: dict[str, Any]) -> dict[str, float]:
    """Device scalars to floats; refuses a diverged learner before it is saved over a good one."""
    values = {name: float(value) for name, value in metrics.items()}
    broken = sorted(name for name, value in values.items() if not np.isfinite(value))
    if broken:
        raise NonFiniteError(
            f"The learner diverged: {', '.join(broken)} not finite. The last checkpoint is intact; lower "
            "learn.learning_rate or learn.updates_per_step and run again under another --name."
        )
    return values
