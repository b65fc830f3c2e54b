"""LocalRunner: episodes from environments stepped in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pld_core.control import ResidualController, SafetyLimits
from pld_core.errors import ContractError
from pld_core.interfaces import BasePolicy, Environment, ResidualActor, RewardModel
from pld_core.stages.recorder import EpisodeRecorder
from pld_core.types import Episode, EpisodeSpec, TimeStep

OnTick = Callable[[Environment], None]


class LocalRunner:
    """Steps several environments in lockstep so that the policy is called once per tick for all.

    Implements interfaces.EpisodeRunner. A lane that finishes takes the next spec at once. What an
    episode becomes depends on its spec alone, not on the lane or on its neighbours.
    """

    def __init__(
        self,
        environments: Sequence[Environment],
        policy: BasePolicy,
        reward: Callable[[], RewardModel],
        replan_every: int = 1,
        residual: bool = True,
        features: int | None = None,
    ) -> None:
        first = environments[0]
        limits = SafetyLimits(first.action_spec, getattr(first, "workspace", None))
        self.environments = environments
        self.policy = policy
        self._settings = (reward, replan_every, residual, features)
        self._rewards = [reward() for _ in environments]
        self._controller = ResidualController(policy, limits, len(environments), replan_every, residual, features)

    def run(
        self, specs: Sequence[EpisodeSpec], actor: ResidualActor | None = None, on_tick: OnTick | None = None
    ) -> Iterator[Episode]:
        """Yield the episodes in the order of ``specs``; ``on_tick`` sees the environment before each tick."""
        pending = deque(enumerate(specs))
        active: dict[int, tuple[int, EpisodeRecorder, TimeStep]] = {}
        finished: dict[int, Episode] = {}
        next_index = 0
        while pending or active:
            for lane in range(len(self.environments)):
                if lane not in active and pending:
                    index, spec = pending.popleft()
                    active[lane] = (index, EpisodeRecorder(spec), self._start(lane, spec))
            self._tick(active, finished, actor, on_tick)
            while next_index in finished:
                yield finished.pop(next_index)
                next_index += 1

    def _start(self, lane: int, spec: EpisodeSpec) -> TimeStep:
        environment = self.environments[lane]
        if spec.task != environment.task:
            raise ContractError(f"An episode of {spec.task!r} was asked from a runner of {environment.task!r}.")
        self._controller.reset(lane, spec)
        self._rewards[lane].reset()
        return environment.reset(spec.seed)

    def _tick(
        self,
        active: dict[int, tuple[int, EpisodeRecorder, TimeStep]],
        finished: dict[int, Episode],
        actor: ResidualActor | None,
        on_tick: OnTick | None,
    ) -> None:
        lanes = list(active)
        observations = [active[lane][2].observation for lane in lanes]
        ticks = self._controller.tick(lanes, observations, actor)
        for lane, observation, tick in zip(lanes, observations, ticks, strict=True):
            index, recorder, _ = active[lane]
            if on_tick is not None:
                on_tick(self.environments[lane])
            recorder.see(observation, tick)
            if recorder.finished:
                finished[index] = recorder.episode(self.policy.version)
                del active[lane]
                continue
            step = self.environments[lane].step(np.array(tick.action))
            reward, success = self._rewards[lane].score(step)
            recorder.act(step, reward, success)
            active[lane] = (index, recorder, step)

    def with_policy(self, policy: BasePolicy) -> LocalRunner:
        """A runner on the same environments; use one of the two at a time."""
        return LocalRunner(self.environments, policy, *self._settings)

    def close(self) -> None:
        for environment in self.environments:
            environment.close()
