"""Episodes tick by tick: the same as LocalRunner's bit for bit, under orders, and under faults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pytest
from recorded import assert_same, local_episodes, looking_base
from sim_driver_tools import direct_episode

from pld_core import bring
from pld_core.control import ResidualController, SafetyLimits
from pld_core.errors import ContractError, PLDError, RobotError
from pld_core.interfaces import Environment
from pld_core.rewards import BinaryReward
from pld_core.rl.actor import LearnerActor
from pld_core.rl.config import LearnerConfig
from pld_core.rl.learner import Learner
from pld_core.stages.runner import LocalRunner
from pld_core.types import BASE_TICK, EXPERT_TICK, ActionChunk, Episode, EpisodeSpec, Observation, TimeStep
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
EVERY_TICK = ("observe", "judge", "orders", "actor", "send")


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


# -- the same as LocalRunner -----------------------------------------------------------------------


class Remembering:
    """A base policy that does as the expert did wherever its proprioception is the expert's to the bit.

    Elsewhere it wanders as the pictures say, which are all that it knows of the target.
    """

    version, action_horizon, feature_dim = "remembering", 2, 8

    def __init__(self, seed: int) -> None:
        actions, steps, _ = direct_episode(PEG, seed)
        self._known = {s.observation.proprio.tobytes(): a for s, a in zip(steps, actions, strict=False)}

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        return [self._chunk(seen) for seen in observations]

    def _chunk(self, seen: Observation) -> ActionChunk:
        pictures = np.stack([seen.images[name] for name in sorted(seen.images)]).astype(np.float32)
        features = pictures.reshape(self.feature_dim, -1).std(1) / 32
        wander = np.array([*np.sin(9 * features[:6]) / 2, 1.0], np.float32)
        action = self._known.get(seen.proprio.tobytes(), wander)
        return ActionChunk(np.stack([action, action / 2]), features, self.version)


@pytest.fixture(scope="module")
def base() -> Remembering:
    return Remembering(seed=0)


@pytest.fixture(scope="module")
def peg() -> Environment:
    environment = bring.environment_factory(PEG)(1)[0]
    environment.max_steps = 40
    return environment


@pytest.fixture(scope="module")
def twin() -> TwinBody:
    return TwinBody(PEG)


def controller_of(policy: Any, environment: Environment, features: int | None = None) -> ResidualController:
    limits = SafetyLimits(environment.action_spec, getattr(environment, "workspace", None))
    return ResidualController(policy, limits, 1, features=features, observation_spec=environment.observation_spec)


@pytest.fixture(scope="module")
def specialist(base: Remembering, peg: Environment) -> LearnerActor:
    """A residual that acts, but is none the wiser."""
    state_dim = controller_of(base, peg, FEATURES).state_dim(peg.observation_spec)
    learner = Learner(LearnerConfig(hidden=(32, 32)), state_dim, 7)
    shapes, rng = jax.eval_shape(lambda: learner.actor_params(learner.init(0))), np.random.default_rng(0)
    return LearnerActor(learner, jax.tree.map(lambda s: 0.3 * rng.normal(size=s.shape).astype(s.dtype), shapes))


@pytest.mark.parametrize(
    ("spec", "success"),
    [
        pytest.param(EpisodeSpec(PEG, 0), True, id="base, success"),
        pytest.param(EpisodeSpec(PEG, 2, record_images=False), False, id="base, time is up"),
        pytest.param(EpisodeSpec(PEG, 1, "learn", 0, 0.3, explore=True, noise_ticks=3), None, id="exploring"),
        pytest.param(EpisodeSpec(PEG, 0, "probe", 12, 0.3), None, id="probe"),
    ],
)
def test_an_episode_on_the_twin_is_local_runner_s_bit_for_bit(spec, success, base, peg, twin, specialist) -> None:
    actor = None if spec.t_base is None else specialist
    runner = LocalRunner([peg], base, BinaryReward, features=FEATURES)
    (expected,) = runner.run([spec], actor)
    twin.residual = actor
    carried = carry_out(twin, controller_of(base, peg, FEATURES), spec, peg.max_steps)
    assert_same(carried.episode, expected)
    assert success in (None, expected.success)
    assert expected.residual.any() == (actor is not None)
    assert carried.report.missing == ()


def test_many_little_episodes_are_local_runner_s_bit_for_bit() -> None:
    expected = local_episodes(12)
    assert {episode.success for episode in expected} == {True, False}
    for episode in expected:
        assert_same(point(PointBody(), episode.spec).episode, episode)


# -- orders and ends -------------------------------------------------------------------------------


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


@pytest.mark.parametrize("max_steps", [1, 4])
def test_time_is_up_after_so_many_actions(max_steps: int) -> None:
    body = PointBody()
    carried = point(body, max_steps=max_steps)
    assert len(body.sent) == len(carried.episode) == carried.outcome.ticks == max_steps
    assert [step.closing for step in carried.steps] == [False] * max_steps + [True]
    assert (carried.episode.terminated, carried.episode.truncated, carried.episode.success) == (False, True, False)
    assert not carried.episode.voided


def test_a_success_with_the_last_action_in_time_is_one() -> None:
    carried = point(PointBody(), max_steps=undisturbed().outcome.ticks)
    assert carried.episode.success
    assert carried.episode.terminated
    assert not carried.episode.truncated


def test_the_operator_s_success_ends_the_episode_and_pays_the_last_action() -> None:
    body = PointBody()
    body.planned[3] = Orders(verdict="success")
    episode = point(body).episode
    assert episode.reward.tolist() == [0, 0, 1]
    assert (episode.success, episode.terminated, episode.truncated) == (True, True, False)
    assert not episode.environment_success


def test_the_operator_s_failure_ends_the_episode_for_good() -> None:
    body = PointBody()
    body.planned[3] = Orders(verdict="failure")
    episode = point(body).episode
    assert len(episode) == 3
    assert not episode.reward.any()
    assert (episode.success, episode.terminated, episode.truncated) == (False, True, False)
    assert not episode.voided


def test_the_operator_s_failure_outweighs_the_reward_s_success() -> None:
    body, expected = PointBody(), undisturbed().episode
    body.planned[len(expected)] = Orders(verdict="failure")
    episode = point(body).episode
    assert len(episode) == len(expected)
    assert not episode.reward.any()
    assert not episode.success
    assert episode.environment_success


@pytest.mark.parametrize("verdict", ["success", "failure"])
def test_a_verdict_before_the_first_action_is_on_nothing(verdict: str) -> None:
    body = PointBody()
    body.planned[0] = Orders(verdict=verdict)
    carried = point(body)
    assert carried.outcome.voided
    assert not carried.outcome.success
    assert "first action" in carried.outcome.reason
    assert len(carried.episode) == 0


@pytest.mark.parametrize(
    ("orders", "reason"), [(Orders(stopped=True), "emergency stop"), (Orders(verdict="void"), "voided")]
)
def test_an_episode_that_the_operator_breaks_off_is_void_and_nothing_more_is_sent(orders: Orders, reason: str) -> None:
    body, whole = PointBody(), undisturbed()
    body.planned[4] = orders
    carried = point(body)
    assert len(body.sent) == 4
    assert carried.outcome.voided
    assert reason in carried.outcome.reason
    assert_same_rows(carried.steps, whole.steps[:4])
    assert carried.episode.voided
    assert carried.episode.action.tobytes() == whole.episode.action[:4].tobytes()
    assert reason in carried.report.reason


@pytest.mark.parametrize("verdict", ["", "success", "failure"])
def test_the_emergency_stop_outweighs_every_verdict(verdict: str) -> None:
    body = PointBody()
    body.planned[undisturbed().outcome.ticks] = Orders(stopped=True, verdict=verdict)
    outcome = point(body).outcome
    assert outcome.voided
    assert not outcome.success


def test_a_human_s_command_is_executed_within_the_limits_and_marked() -> None:
    body = PointBody()
    for tick in (2, 3):
        body.planned[tick] = Orders(intervention=np.array([-5.0, 0.5, 0.0]))
    start = body.first(POINT.seed).proprio
    box = np.array([[start[0] - 0.05, -1, -1], [1, 1, 1]], np.float32)
    carried = point(body, workspace=box)
    episode = carried.episode
    assert np.flatnonzero(episode.intervention).tolist() == [2, 3]
    assert np.flatnonzero(episode.source == EXPERT_TICK).tolist() == [2, 3]
    assert (episode.source[[0, 1, 4]] == BASE_TICK).all()
    assert episode.proprio[:, 0].min() >= box[0, 0] - 1e-6
    np.testing.assert_array_equal(episode.action[2:4, 1], 0.5)
    assert (np.abs(episode.action) <= 1).all()
    assert all(np.array_equal(a, b) for a, b in zip(body.sent, episode.action, strict=True))
    assert not np.array_equal(episode.base_action[2], episode.action[2])  # what the base meant to do is kept


def test_nobody_drives_the_closing_row() -> None:
    body, ticks = PointBody(), 4
    body.planned[ticks] = Orders(intervention=np.ones(3))
    closing = point(body, max_steps=ticks).steps[-1]
    assert closing.closing
    assert not closing.intervention
    assert closing.decided.source == BASE_TICK


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RobotError, ContractError])
@pytest.mark.parametrize("method", EVERY_TICK)
def test_a_fault_of_any_part_voids_the_episode_and_keeps_the_rows_before_it(method: str, error: type[PLDError]) -> None:
    body, whole = PointBody(), undisturbed()
    body.faults[(method, 3)] = error("the cable is loose")
    carried = point(body)
    assert carried.outcome.voided
    assert (carried.outcome.success, carried.outcome.terminated, carried.outcome.truncated) == (False, False, True)
    assert carried.outcome.reason == carried.report.reason == "the cable is loose"
    assert carried.outcome.ticks == len(body.sent) == 3
    assert_same_rows(carried.steps, whole.steps[:3])
    assert carried.episode.voided
    assert carried.episode.action.tobytes() == whole.episode.action[:3].tobytes()
    assert np.isnan(carried.episode.proprio[3]).all()


@pytest.mark.parametrize("method", ["reset", "begin", "orders", "actor", "send"])
def test_a_fault_before_the_first_action_leaves_an_empty_voided_episode(method: str) -> None:
    body = PointBody()
    body.faults[(method, 0)] = RobotError("the arm is asleep")
    carried = point(body)
    assert carried.outcome.voided
    assert carried.steps == []
    assert len(carried.episode) == 0
    assert carried.episode.voided


def test_a_controller_that_cannot_be_made_voids_the_episode() -> None:
    def prepare(first: Observation) -> ResidualController:
        raise RobotError("no chunk came")

    outcome = run_episode(PointBody(), prepare, POINT, 30, lambda step: None)
    assert outcome.voided
    assert outcome.reason == "no chunk came"


def test_a_faulty_observation_voids_the_episode() -> None:
    class Nan(PointBody):
        def look(self) -> tuple[Observation, Judgement]:
            seen, word = super().look()
            return dataclasses.replace(seen, proprio=seen.proprio * (np.nan if self.tick == 3 else 1)), word

    carried = point(Nan())
    assert carried.outcome.voided
    assert "NaN" in carried.outcome.reason
    assert len(carried.episode) == 3


@pytest.mark.parametrize("reward", [np.nan, np.inf])
def test_a_reward_that_is_not_finite_voids_the_episode(reward: float) -> None:
    body = PointBody()
    body.judged = lambda tick, word: dataclasses.replace(word, reward=reward if tick == 3 else 0.0)
    carried = point(body)
    assert carried.outcome.voided
    assert "reward" in carried.outcome.reason
    assert np.isfinite(carried.episode.reward).all()


@pytest.mark.parametrize("command", [np.full(3, np.nan), np.zeros(7)])
def test_a_human_s_command_that_is_none_voids_the_episode_and_is_not_sent(command: np.ndarray) -> None:
    body = PointBody()
    body.planned[2] = Orders(intervention=command)
    assert point(body).outcome.voided
    assert len(body.sent) == 2


def test_the_simulator_s_success_is_remembered_though_the_episode_is_void() -> None:
    body, ticks = PointBody(), undisturbed().outcome.ticks
    body.planned[ticks] = Orders(verdict="void")
    episode = point(body).episode
    assert episode.voided
    assert not episode.success
    assert episode.environment_success


def test_a_programming_error_is_no_fault_of_the_robot_and_is_not_hidden() -> None:
    body = PointBody()
    body.faults[("observe", 3)] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        point(body)


def test_every_row_is_recorded_as_soon_as_it_has_happened_with_what_it_rests_on() -> None:
    body = PointBody()
    told = [(step.tick, step.latency_ms, step.weights_version) for step in point(body, max_steps=3).steps]
    assert told == [(0, 1.5, ""), (1, 1.5, ""), (2, 1.5, ""), (3, 0.0, "")]
