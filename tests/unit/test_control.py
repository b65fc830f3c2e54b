"""The tick: chunk cursor, residual combination, limits, and what is recorded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pld_core.control import ChunkCursor, ResidualController, SafetyLimits
from pld_core.errors import ContractError, NonFiniteError
from pld_core.types import BASE_TICK, RESIDUAL_TICK, ActionChunk, ActionSpec, EpisodeSpec, Observation, ObservationSpec
from pld_core.vla.callable_policy import CallablePolicy


def chunk(*firsts: float) -> ActionChunk:
    actions = np.array([[value, 0.0, 1.0] for value in firsts], np.float32)
    return ActionChunk(actions, np.zeros(0, np.float32), "v")


def observation(x: float = 0.0) -> Observation:
    return Observation({}, np.array([x, 0, 0], np.float32))


class FixedActor:
    def __init__(self, value: float) -> None:
        self.value = value

    def act(self, state, base_action, images, seeds):
        return np.full_like(base_action, self.value)


def test_cursor_replans_when_its_share_of_the_chunk_is_used() -> None:
    cursor = ChunkCursor(replan_every=2, action_dim=3)
    cursor.offer(chunk(0.1, 0.2, 0.3))
    assert cursor.next()[0] == np.float32(0.1)
    cursor.offer(chunk(0.9, 0.9, 0.9))  # too early: the first chunk has one more tick to serve
    assert cursor.next()[0] == np.float32(0.2)
    cursor.offer(chunk(0.5, 0.6, 0.7))
    assert cursor.next()[0] == np.float32(0.5)


def test_cursor_finishes_a_stale_chunk_then_holds_with_the_last_gripper_command() -> None:
    cursor = ChunkCursor(replan_every=1, action_dim=3, gripper=2)
    cursor.offer(chunk(0.1, 0.2))
    cursor.next()
    assert cursor.next()[0] == np.float32(0.2)  # no fresh chunk came: the tail
    np.testing.assert_array_equal(cursor.next(), [0.0, 0.0, 1.0])  # then stand still


def test_without_a_gripper_every_entry_of_a_hold_is_zero() -> None:
    cursor = ChunkCursor(replan_every=1, action_dim=3)
    cursor.offer(chunk(0.1))
    cursor.next()
    np.testing.assert_array_equal(cursor.next(), [0.0, 0.0, 0.0])


@pytest.mark.parametrize("gripper", [-1, 3])
def test_a_gripper_must_be_an_entry_of_the_action(gripper: int) -> None:
    with pytest.raises(ContractError, match="of 3 actions"):
        ActionSpec(dim=3, gripper=gripper)


def test_plan_starts_at_the_entry_that_comes_next() -> None:
    cursor = ChunkCursor(replan_every=3, action_dim=3)
    cursor.offer(chunk(0.1, 0.2, 0.3))
    cursor.next()
    np.testing.assert_allclose(cursor.plan(3)[:, 0], [0.2, 0.3, 0.0])


@given(
    st.lists(st.floats(-0.2, 0.2), min_size=3, max_size=3),
    st.lists(st.floats(-50, 50), min_size=7, max_size=7),
)
def test_no_command_leaves_the_box_or_goes_further_out(position: list[float], action: list[float]) -> None:
    box = np.array([[-0.1, -0.1, -0.1], [0.1, 0.1, 0.1]])
    limits = SafetyLimits(ActionSpec(), box)
    here = np.array(position)
    safe = limits.apply(np.array(action), here)
    there = here + safe[:3] * 0.01
    outside_before = np.maximum(0, np.maximum(box[0] - here, here - box[1]))
    outside_after = np.maximum(0, np.maximum(box[0] - there, there - box[1]))
    assert (outside_after <= outside_before + 1e-7).all()
    assert np.abs(safe).max() <= 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_limits_refuse_what_is_not_finite(value: float) -> None:
    with pytest.raises(NonFiniteError, match="Nothing was sent"):
        SafetyLimits(ActionSpec(dim=2, gripper=None)).apply(np.array([0.0, value]))


def test_limits_refuse_a_wrong_size() -> None:
    with pytest.raises(ContractError, match=r"shape \(3,\).*takes \(7,\)"):
        SafetyLimits(ActionSpec()).apply(np.zeros(3))


def controller(value: float = 0.8, residual: bool = True) -> ResidualController:
    policy = CallablePolicy(lambda seen: np.array([value, -value, 1.0]))
    return ResidualController(policy, SafetyLimits(ActionSpec(dim=3, gripper=2)), lanes=2, residual=residual)


def test_zero_residual_reproduces_the_base_bit_for_bit() -> None:
    for value in (0.8, 0.123456789, -1.0):
        tested = controller(value)
        tested.reset(0, EpisodeSpec("t", 0, t_base=0, xi=0.5))
        tick = tested.tick([0], [observation()], FixedActor(0.0))[0]
        assert tick.action.tobytes() == tick.base_action.tobytes()
        assert tick.source == RESIDUAL_TICK


def test_what_is_recorded_is_what_was_executed_after_clipping() -> None:
    tested = controller(0.8)
    tested.reset(0, EpisodeSpec("t", 0, t_base=0, xi=0.5))
    tick = tested.tick([0], [observation()], FixedActor(1.0))[0]
    np.testing.assert_allclose(tick.action, [1.0, -0.3, 1.0], atol=1e-6)  # 0.8 + 0.5 and 1 + 0.5 are clipped to 1
    np.testing.assert_allclose(tick.residual, 1.0)


def test_base_drives_alone_for_t_base_ticks() -> None:
    tested = controller(0.2)
    tested.reset(0, EpisodeSpec("t", 0, t_base=2, xi=0.5))
    sources = [tested.tick([0], [observation()], FixedActor(1.0))[0] for _ in range(4)]
    assert [tick.source for tick in sources] == [BASE_TICK, BASE_TICK, RESIDUAL_TICK, RESIDUAL_TICK]
    assert all(tick.action.tobytes() == tick.base_action.tobytes() for tick in sources[:2])


def test_without_residual_the_actor_alone_acts() -> None:
    tested = controller(0.8, residual=False)
    tested.reset(0, EpisodeSpec("t", 0, t_base=0, xi=0.5))
    np.testing.assert_allclose(tested.tick([0], [observation()], FixedActor(-0.25))[0].action, -0.25)


def test_faulty_sensors_and_policies_are_refused() -> None:
    tested = controller()
    with pytest.raises(NonFiniteError, match="proprioception"):
        tested.tick([0], [observation(np.nan)])
    broken = ResidualController(CallablePolicy(lambda seen: np.zeros(2)), SafetyLimits(ActionSpec(dim=3, gripper=2)))
    with pytest.raises(ContractError, match=r"takes \[H, 3\]"):
        broken.tick([0], [observation()])
    nan = ResidualController(
        CallablePolicy(lambda seen: np.full(3, np.nan)), SafetyLimits(ActionSpec(dim=3, gripper=2))
    )
    with pytest.raises(NonFiniteError, match="policy"):
        nan.tick([0], [observation()])


def checked(policy: CallablePolicy, cameras: dict[str, tuple[int, int, int]] | None = None) -> ResidualController:
    spec = ObservationSpec(cameras or {}, 3)
    return ResidualController(policy, SafetyLimits(ActionSpec(dim=3, gripper=2)), lanes=2, observation_spec=spec)


def test_observations_are_held_against_their_specification() -> None:
    tested = checked(CallablePolicy(lambda seen: np.zeros(3)), {"top": (4, 4, 3)})
    frame = np.zeros((4, 4, 3), np.uint8)
    tested.tick([0], [Observation({"top": frame}, np.zeros(3, np.float32))])
    for images, proprio, message in (
        ({"top": frame}, np.zeros(4), r"shape \(4,\).*promises \(3,\)"),
        ({"front": frame}, np.zeros(3), r"'top' is missing.*has \['front'\]"),
        ({"top": frame[1:]}, np.zeros(3), r"uint8 \(3, 4, 3\).*promises uint8 \(4, 4, 3\)"),
        ({"top": frame / 255}, np.zeros(3), r"delivered float64.*promises uint8"),
    ):
        with pytest.raises(ContractError, match=message):
            tested.tick([0], [Observation(images, proprio)])


def test_features_are_held_against_what_the_policy_promises() -> None:
    policy = CallablePolicy(lambda seen: np.zeros(3))
    for features, error, message in (
        (np.zeros(2), ContractError, r"features of shape \(2,\).*promises \(1,\)"),
        (np.full(1, np.inf), NonFiniteError, "infinity in its features"),
    ):
        policy.feature_dim = 1
        policy.infer = lambda seen, answer=features: [ActionChunk(np.zeros((1, 3)), answer, "v")]
        with pytest.raises(error, match=message):
            checked(policy).tick([0], [observation()])


def test_one_answer_for_each_observation() -> None:
    policy = CallablePolicy(lambda seen: np.zeros(3))
    policy.infer = lambda seen: []
    with pytest.raises(ContractError, match="0 chunks for 1 observations"):
        checked(policy).tick([0], [observation()])


def test_a_faulty_lane_leaves_its_neighbours_as_they_are() -> None:
    seen = [observation(np.nan), observation(0.1)]
    alone, together = controller(), controller()
    for tested in (alone, together):
        for lane in (0, 1):
            tested.reset(lane, EpisodeSpec("t", lane, t_base=0, xi=0.5))
    fault, beside = together.attempt([0, 1], seen, FixedActor(1.0))
    assert isinstance(fault, NonFiniteError)
    assert beside.action.tobytes() == alone.tick([1], seen[1:], FixedActor(1.0))[0].action.tobytes()


class Counting:
    """A base that counts what it is asked, and answers that number in actions and features."""

    version, action_horizon, feature_dim = "counting", 4, 2
    asked = 0

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        self.asked += len(observations)
        number = np.float32(0.01 * self.asked)
        chunk = ActionChunk(np.full((4, 3), number), np.full(2, number, np.float32), self.version)
        return [chunk] * len(observations)


def test_the_base_is_asked_no_more_often_than_it_replans() -> None:
    base = Counting()
    tested = ResidualController(base, SafetyLimits(ActionSpec(dim=3, gripper=None)), lanes=2, replan_every=3)
    for lane in (0, 1):
        tested.reset(lane, EpisodeSpec("t", 0))
    tested.tick([0], [observation()])
    states = [tested.tick([0, 1], [observation(float(k)), observation()])[0].state for k in range(4)]
    assert base.asked == 4  # lane 0 at its ticks 0 and 3, lane 1 at its ticks 0 and 3
    size = len(observation().proprio)
    assert all(len(state) == tested.state_dim(ObservationSpec({}, size)) for state in states)
    changes = [float(state[size]) for state in states]  # of x, since lane 0 planned at x = 0, and then at x = 2
    assert changes == pytest.approx([0.0, 1.0, 0.0, 1.0])
    features = [float(state[2 * size]) for state in states]
    assert features == pytest.approx([0.01, 0.01, 0.03, 0.03])  # of the plan in use


def test_replanning_at_once_asks_the_base_again() -> None:
    base = Counting()
    tested = ResidualController(base, SafetyLimits(ActionSpec(dim=3, gripper=None)), replan_every=3)
    tested.reset(0, EpisodeSpec("t", 0))
    tested.tick([0], [observation()])
    tested.replan(0)
    tested.tick([0], [observation()])
    assert base.asked == 2
