"""Bodies of an episode whose orders, verdicts and faults are laid down by tick, and what is carried out with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from recorded import looking_base

from pld_core import bring
from pld_core.control import ResidualController, SafetyLimits
from pld_core.interfaces import Environment
from pld_core.types import Episode, EpisodeSpec, Observation, TimeStep
from pld_core.vla.callable_policy import CallablePolicy
from pld_ros.control.episode import Judgement, Orders, Outcome, Step, run_episode
from pld_ros.drivers.sim import SimDriver
from pld_ros.drivers.sim_camera import SimCameras
from pld_ros.recording.assembler import EpisodeAssembler, EpisodeReport
from pld_ros.recording.records import Outcome as OutcomeRow
from pld_ros.recording.records import StepRow, outcome_record, step_record
from pld_sim.point_reach import point_reach

PEG, FEATURES = "peg_insertion", 5
POINT = EpisodeSpec("point_reach", 2)  # a success after 15 ticks


class Body:
    """An episode.Body whose orders, verdicts and faults are laid down by tick."""

    def __init__(self) -> None:
        self.residual: Any = None
        self.planned: dict[int, Orders] = {}
        self.faults: dict[tuple[str, int], Exception] = {}  # (method, tick)
        self.judged: Callable[[int, Judgement], Judgement] = lambda tick, word: word
        self.sent: list[np.ndarray] = []

    @property
    def tick(self) -> int:
        return len(self.sent)

    def first(self, seed: int) -> Observation:
        raise NotImplementedError

    def look(self) -> tuple[Observation, Judgement]:
        raise NotImplementedError

    def move(self, action: np.ndarray) -> None:
        raise NotImplementedError

    def reset(self, seed: int) -> Observation:
        self.sent = []
        self._meet("reset")
        return self.first(seed)

    def begin(self, first: Observation) -> Observation:
        self._meet("begin")
        return first

    def observe(self) -> Observation:
        self._meet("observe")
        observation, self._word = self.look()
        return observation

    def judge(self, observation: Observation, last: bool) -> Judgement:
        self._meet("judge")
        return self.judged(self.tick, self._word)

    def orders(self) -> Orders:
        self._meet("orders")
        return self.planned.get(self.tick, Orders())

    def actor(self) -> tuple[Any, str]:
        self._meet("actor")
        return self.residual, "w1" if self.residual else ""

    def send(self, action: np.ndarray, observation: Observation) -> float:
        self._meet("send")
        self.move(action)
        self.sent.append(action)
        return 1.5

    def _meet(self, method: str) -> None:
        if fault := self.faults.get((method, self.tick)):
            raise fault


class PointBody(Body):
    """The little environment, which knows no limit of time here."""

    def __init__(self) -> None:
        super().__init__()
        (self.environment,) = point_reach(1, camera=True)
        self.environment.max_steps = 10**6

    def first(self, seed: int) -> Observation:
        return self.environment.reset(seed).observation

    def look(self) -> tuple[Observation, Judgement]:
        return self._step.observation, word_of(self._step)

    def move(self, action: np.ndarray) -> None:
        self._step = self.environment.step(action)


class TwinBody(Body):
    """The simulated twin in lockstep: the arm's driver, and cameras that draw its snapshots."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.driver, self.cameras = SimDriver(task, realtime=False), SimCameras(task)
        self.instruction = bring.environment_factory(task)(1)[0].instruction
        self.driver.connect()

    def first(self, seed: int) -> Observation:
        self.driver.reset(seed)
        return self.look()[0]

    def look(self) -> tuple[Observation, Judgement]:
        state = self.driver.next_state(0.0)
        assert state is not None
        assert state.snapshot is not None
        images = self.cameras.render(state.snapshot)
        stamps = dict.fromkeys(("proprio", *images), state.stamp_ns)
        observation = Observation(images, state.proprio, self.instruction, stamps)
        return observation, word_of(
            TimeStep(observation, state.reward, state.terminated, state.truncated, state.success)
        )

    def move(self, action: np.ndarray) -> None:
        self.driver.command(action[:6], float(action[6]))


def word_of(step: TimeStep) -> Judgement:
    """What the reward node says of a step when the simulator's word counts."""
    own = step.success
    return Judgement(float(own), own, step.terminated, step.truncated, float(own), own)


@dataclasses.dataclass
class Carried:
    """All that came of an order."""

    steps: list[Step]
    outcome: Outcome
    episode: Episode
    report: EpisodeReport


def carry_out(body: Body, controller: ResidualController, spec: EpisodeSpec, max_steps: int) -> Carried:
    """Run it, and put together what a controller would have told of it."""
    steps: list[Step] = []
    outcome = run_episode(body, lambda first: controller, spec, max_steps, steps.append)
    assembler = EpisodeAssembler()
    for sequence, step in enumerate(steps, start=1):
        assert assembler.add(step_record(row(step, sequence))) == []
    told = OutcomeRow(
        "e", spec, body.instruction, controller.policy.version, "w1", outcome.ticks, 1, len(steps), outcome.terminated,
        outcome.truncated, outcome.success, outcome.voided, outcome.reason, outcome.environment_success,
    )  # fmt: skip
    (done,) = assembler.add(outcome_record(told))
    return Carried(steps, outcome, done.episode, done.report)


def row(step: Step, sequence: int) -> StepRow:
    seen, decided = step.observation, step.decided
    return StepRow(
        "e", sequence, step.tick, step.closing, seen.stamp_ns, seen.proprio, decided.state, decided.base_action,
        decided.residual, decided.action, step.reward, step.success, decided.source, step.intervention,
        step.weights_version, seen.images,
    )  # fmt: skip


def controller_of(policy: Any, environment: Environment, features: int | None = None) -> ResidualController:
    limits = SafetyLimits(environment.action_spec, getattr(environment, "workspace", None))
    return ResidualController(policy, limits, 1, features=features, observation_spec=environment.observation_spec)


def point(body: PointBody, spec: EpisodeSpec = POINT, workspace: np.ndarray | None = None, max_steps=30) -> Carried:
    body.instruction = body.environment.instruction
    controller = controller_of(CallablePolicy(looking_base, version="biased"), body.environment)
    controller.limits = dataclasses.replace(controller.limits, workspace=workspace)
    return carry_out(body, controller, spec, max_steps)


def undisturbed() -> Carried:
    carried = point(PointBody())
    assert carried.outcome.ticks > 6
    assert carried.outcome.success
    return carried


def assert_same_rows(given: list[Step], expected: list[Step]) -> None:
    assert len(given) == len(expected)
    for a, b in zip(given, expected, strict=True):
        assert a.observation.proprio.tobytes() == b.observation.proprio.tobytes()
        assert a.decided.action.tobytes() == b.decided.action.tobytes()
        assert (a.tick, a.reward, a.success) == (b.tick, b.reward, b.success)
