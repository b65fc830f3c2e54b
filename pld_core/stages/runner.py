"""LocalRunner: episodes from environments stepped in this process."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass

import numpy as np

from pld_core.control import ResidualController, SafetyLimits, Tick
from pld_core.errors import ContractError, NonFiniteError
from pld_core.interfaces import BasePolicy, Environment, ResidualActor, RewardModel, begin_step, set_pictures
from pld_core.stages.recorder import EpisodeRecorder, blank_row
from pld_core.types import Episode, EpisodeSpec, TimeStep

OnTick = Callable[[Environment], None]
VOIDED_IN_A_ROW = 5  # a glitch spoils one episode; a fault that lasts must stop the run


@dataclass
class _Running:
    """An episode on its way: its place in the order, what it recorded, and the newest step."""

    index: int
    recorder: EpisodeRecorder
    step: TimeStep


@dataclass(frozen=True)
class _Finished:
    episode: Episode
    fault: ContractError | None = None  # why it is voided


_Begun = Callable[[], TimeStep] | _Finished | ContractError


class LocalRunner:
    """Steps several environments in lockstep so that the policy is called once per tick for all.

    Implements interfaces.EpisodeRunner. A lane that finishes takes the next spec when the others plan next: all
    plan in the same ticks, and none waits while another's pictures for it are drawn. What an episode becomes depends
    on its spec alone, not on the lane or on its neighbours: one that meets a ContractError (NaN, a missing camera, a
    wrong size) ends as ``voided`` and the others go on.
    """

    def __init__(
        self,
        environments: Sequence[Environment],
        policy: BasePolicy,
        reward: Callable[[], RewardModel],
        replan_every: int = 1,
        residual: bool = True,
        features: int | None = None,
        images_every_tick: bool = False,
        recorded_every: int = 1,
        simplified_images: bool = False,
        stopping: threading.Event | None = None,
    ) -> None:
        """Of environments that can leave out pictures which nobody looks at (``image_every``): images_every_tick has
        them drawn all the same; recorded_every: ticks that one serves in episodes with ``record_images``;
        simplified_images: of those that can (``simplified``), but in evaluations and for rewards that look."""
        first = environments[0]
        limits = SafetyLimits(first.action_spec, getattr(first, "workspace", None))
        self.environments = environments
        self.policy = policy
        self._replan_every = min(replan_every, policy.action_horizon)
        self._pictures = images_every_tick, recorded_every, simplified_images
        self._settings = (reward, replan_every, residual, features, *self._pictures)
        self._rewards = [reward() for _ in environments]
        self.sees_for_itself = sees_for_itself(self._rewards[0])
        self._controller = ResidualController(
            policy, limits, len(environments), replan_every, residual, features, first.observation_spec
        )
        self._blank = blank_row(first, self._controller.state_dim(first.observation_spec))
        self._stopping = stopping or threading.Event()
        self._active: dict[int, _Running] = {}
        self._finished: dict[int, _Finished] = {}
        self._voided = 0  # in a row, in the order of the specs

    def run(
        self, specs: Sequence[EpisodeSpec], actor: ResidualActor | None = None, on_tick: OnTick | None = None
    ) -> Iterator[Episode]:
        """Yield the episodes in the order of ``specs``; ``on_tick`` sees the environment before each tick.

        Raises the ContractError itself after several voided episodes in a row, and CancelledError
        after ``stop``.
        """
        pending = deque(enumerate(specs))
        self._active, self._finished = {}, {}
        next_index = ticks = 0
        while pending or self._active:
            if ticks % self._replan_every == 0 or not self._active:
                ticks = 0
                for lane in range(len(self.environments)):
                    if lane not in self._active and pending:
                        self._start(lane, *pending.popleft())
            self._tick(actor, on_tick)
            ticks += 1
            while next_index in self._finished:
                done = self._finished.pop(next_index)
                yield done.episode
                self._judge(done.fault)
                next_index += 1

    def stop(self) -> None:
        """End whatever runs here within a tick, for good; may be called from any thread."""
        self._stopping.set()

    def _judge(self, fault: ContractError | None) -> None:
        self._voided = 0 if fault is None else self._voided + 1
        if fault is not None and self._voided >= VOIDED_IN_A_ROW:
            raise fault

    def _start(self, lane: int, index: int, spec: EpisodeSpec) -> None:
        environment, recorder = self.environments[lane], EpisodeRecorder(spec)
        if spec.task != environment.task:
            raise ContractError(f"An episode of {spec.task!r} was asked from a runner of {environment.task!r}.")
        self._controller.reset(lane, spec)
        self._rewards[lane].reset()
        if hasattr(environment, "stop_at_success"):
            environment.stop_at_success = not self.sees_for_itself  # type: ignore[attr-defined]
        set_pictures(environment, self._image_every(spec), self._simplifies(spec))
        try:
            self._active[lane] = _Running(index, recorder, environment.reset(spec.seed))
        except ContractError as fault:
            self._finished[index] = self._void(recorder, fault)

    def _image_every(self, spec: EpisodeSpec) -> int:
        """Ticks between the pictures that somebody looks at; the base does when it plans."""
        every_tick, recorded_every, _ = self._pictures
        if self.sees_for_itself or every_tick:
            return 1
        return recorded_every if spec.record_images else self._replan_every

    def _simplifies(self, spec: EpisodeSpec) -> bool:
        *_, simplified_images = self._pictures
        return simplified_images and spec.mode != "evaluate" and not self.sees_for_itself

    def _tick(self, actor: ResidualActor | None, on_tick: OnTick | None) -> None:
        if self._stopping.is_set():
            raise CancelledError("The runner was stopped.")
        lanes = list(self._active)
        observations = [self._active[lane].step.observation for lane in lanes]
        outcomes = self._controller.attempt(lanes, observations, actor)
        # All lanes are set going before any is waited for.
        begun = [self._begin(lane, outcome, on_tick) for lane, outcome in zip(lanes, outcomes, strict=True)]
        for lane, step in zip(lanes, begun, strict=True):
            try:
                done = self._conclude(lane, step)
            except ContractError as fault:
                done = self._void(self._active[lane].recorder, fault)
            if done is not None:
                self._finished[self._active.pop(lane).index] = done

    def _begin(self, lane: int, outcome: Tick | ContractError, on_tick: OnTick | None) -> _Begun:
        """Start one lane's step; instead the episode if this was its closing row, or the lane's fault."""
        if isinstance(outcome, ContractError):
            return outcome
        running, environment = self._active[lane], self.environments[lane]
        try:
            if on_tick is not None:
                on_tick(environment)
            running.recorder.see(running.step.observation, outcome)
            if running.recorder.finished:
                return _Finished(running.recorder.episode(self.policy.version))
            return begin_step(environment, np.array(outcome.action))
        except ContractError as fault:
            return fault

    def _conclude(self, lane: int, begun: _Begun) -> _Finished | None:
        """What came of it; the episode if it is over. Raises the lane's fault."""
        if isinstance(begun, ContractError):
            raise begun
        if isinstance(begun, _Finished):
            return begun
        running = self._active[lane]
        running.step = begun()
        reward, success = self._rewards[lane].score(running.step)
        if not np.isfinite(reward):
            raise NonFiniteError(f"The reward is {reward}; a reward model must answer finite numbers.")
        missed = self.sees_for_itself and running.step.success and not success
        running.recorder.act(_cut_short(running.step) if missed else running.step, reward, success)
        return None

    def _void(self, recorder: EpisodeRecorder, fault: ContractError) -> _Finished:
        return _Finished(recorder.void(self.policy.version, self._blank), fault)

    def with_policy(self, policy: BasePolicy) -> LocalRunner:
        """A runner on the same environments; use one of the two at a time. ``stop`` ends both."""
        return LocalRunner(self.environments, policy, *self._settings, self._stopping)

    def with_reward(self, reward: Callable[[], RewardModel]) -> LocalRunner:
        """As ``with_policy``, judged by another reward."""
        return LocalRunner(self.environments, self.policy, reward, *self._settings[1:], self._stopping)

    def close(self) -> None:
        for environment in self.environments:
            environment.close()


def sees_for_itself(reward: RewardModel) -> bool:
    """Whether a reward judges by what it sees; see interfaces.RewardModel."""
    return bool(getattr(reward, "sees_for_itself", False))


def _cut_short(step: TimeStep) -> TimeStep:
    """A step that the environment ends at a success which its judge did not see: an end like a time limit."""
    return dataclasses.replace(step, terminated=False, truncated=step.last)
