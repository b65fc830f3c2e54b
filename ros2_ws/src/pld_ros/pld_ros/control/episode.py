"""One episode on a robot, tick by tick. Knows neither ROS nor time: see ``Body``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from pld_core.control import ResidualController, Tick
from pld_core.errors import ContractError, NonFiniteError, PLDError
from pld_core.interfaces import ResidualActor
from pld_core.types import EXPERT_TICK, EpisodeSpec, Observation


@dataclass(frozen=True)
class Judgement:
    """What the reward model says of an observation."""

    reward: float = 0.0
    success: bool = False
    terminated: bool = False
    truncated: bool = False
    probability: float = 0.0
    environment_success: bool = False  # the simulator's own word


@dataclass(frozen=True)
class Orders:
    """What the operator wants at this tick. verdict: "success", "failure", "void" or none;
    intervention: the human's action, float32 ``[A]``, while a human drives."""

    stopped: bool = False
    verdict: str = ""
    intervention: np.ndarray | None = None
    waited: bool = False  # there was a pause: what was seen before it is old
    cancelled: bool = False  # whoever ordered the episode wants it no more


@dataclass(frozen=True)
class Step:
    """One row of an episode, as it happened."""

    tick: int
    observation: Observation
    decided: Tick
    reward: float  # earned by the action before
    success: bool
    closing: bool
    intervention: bool = False
    weights_version: str = ""
    latency_ms: float = 0.0


@dataclass
class Outcome:
    """How an episode ended."""

    ticks: int = 0
    terminated: bool = False
    truncated: bool = False
    success: bool = False
    environment_success: bool = False
    voided: bool = False
    reason: str = ""


class Body(Protocol):
    """All that an episode needs of the world. Every method may raise PLDError: the episode is void then."""

    def reset(self, seed: int) -> Observation:
        """Make the start and give an observation of it."""
        ...

    def begin(self, first: Observation) -> Observation:
        """All is prepared: wait for the time of the first tick, and give what it is decided on."""
        ...

    def observe(self) -> Observation:
        """The observation of the next tick; waits for its time."""
        ...

    def judge(self, observation: Observation, last: bool) -> Judgement:
        """What the action before has earned. last: nothing can be judged after this, so wait for the word."""
        ...

    def orders(self) -> Orders:
        """May wait while the operator pauses."""
        ...

    def actor(self) -> tuple[ResidualActor | None, str]:
        """The residual of this tick and its version."""
        ...

    def send(self, action: np.ndarray, observation: Observation) -> float:
        """Command the arm; returns milliseconds since the observation was captured."""
        ...


def run_episode(
    body: Body,
    prepare: Callable[[Observation], ResidualController],
    spec: EpisodeSpec,
    max_steps: int,
    record: Callable[[Step], None],
) -> Outcome:
    """Carry out ``spec``; every row goes to ``record`` as soon as it has happened.

    prepare: makes the controller once the first observation is there.

    Same order of events as ``LocalRunner``: look, judge the action before, decide, act. The closing
    row is decided (its base action bootstraps a truncated end) but not executed.
    """
    outcome = Outcome()
    try:
        observation = body.reset(spec.seed)
        controller = prepare(observation)
        controller.reset(0, spec)
        observation = body.begin(observation)
        while not _tick(body, controller, observation, outcome, max_steps, record):
            observation = body.observe()
    except PLDError as fault:
        outcome.voided, outcome.success, outcome.reason = True, False, str(fault)
        outcome.terminated, outcome.truncated = False, True
    return outcome


def _tick(
    body: Body,
    controller: ResidualController,
    observation: Observation,
    outcome: Outcome,
    max_steps: int,
    record: Callable[[Step], None],
) -> bool:
    """One tick; True if it closed the episode."""
    orders = body.orders()
    if orders.waited:
        controller.replan(0)
        return False
    judged = body.judge(observation, outcome.ticks >= max_steps) if outcome.ticks else Judgement()
    outcome.environment_success |= judged.environment_success
    judged = _overruled(judged, orders)
    if not np.isfinite(judged.reward):
        raise NonFiniteError(f"The reward is {judged.reward}; a reward model must answer finite numbers.")
    closing = judged.success or judged.terminated or judged.truncated or outcome.ticks >= max_steps
    if closing and not outcome.ticks:
        raise ContractError("The episode was ended before its first action; there is nothing to judge.")
    actor, version = body.actor()
    decided = controller.tick([0], [observation], actor)[0]
    if closing:  # deciding took time, and the operator's last word counts
        judged = _overruled(judged, body.orders())
    human = orders.intervention is not None and not closing
    if human:
        decided = replace(decided, action=_human(controller, orders, observation), source=EXPERT_TICK)
    latency = 0.0 if closing else body.send(decided.action, observation)
    record(Step(outcome.ticks, observation, decided, judged.reward, judged.success, closing, human, version, latency))
    if closing:
        outcome.success = judged.success
        outcome.terminated = judged.terminated or judged.success
        outcome.truncated = not outcome.terminated
        return True
    outcome.ticks += 1
    return False


def _overruled(judged: Judgement, orders: Orders) -> Judgement:
    """The operator's word outweighs the reward model's."""
    if orders.stopped:
        raise ContractError("The operator pressed the emergency stop.")
    if orders.cancelled:
        raise ContractError("The order was cancelled.")
    if orders.verdict == "void":
        raise ContractError("The operator voided the episode.")
    if orders.verdict == "success":
        return replace(judged, reward=1.0, success=True)
    if orders.verdict == "failure":
        return replace(judged, reward=0.0, success=False, terminated=True)
    return judged


def _human(controller: ResidualController, orders: Orders, observation: Observation) -> np.ndarray:
    """A human's command passes the same limits as any other."""
    proprio = observation.proprio
    return controller.limits.apply(np.asarray(orders.intervention, np.float32), proprio[:3], proprio[3:6])
