"""The base policy in another process: chunks that come in time, late, from the wrong policy, or not at all."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from pld_core.errors import ContractError, RobotUnavailableError
from pld_core.types import ActionChunk, Observation
from pld_ros.control.chunk_client import ChunkClient

PERIOD_NS, EPOCH_NS = 50_000_000, 1_700_000_000_000_000_000
HORIZON, GRIPPER = 4, 2


def stamps(tick: float, camera_late_ns: int = 3_000_000) -> dict[str, int]:
    newest = EPOCH_NS + round(tick * PERIOD_NS)
    return {"proprio": newest - camera_late_ns, "wrist": newest}


def seen(tick: float) -> Observation:
    return Observation({}, np.zeros(3, np.float32), "go", stamps(tick))


def chunk(tick: float, version: str = "v1") -> ActionChunk:
    """Entry k moves by (tick + k) / 100, so that an entry says when it was meant for."""
    actions = np.full((HORIZON, 3), -1.0, np.float32)  # the gripper is closed
    actions[:, :2] = (tick + np.arange(HORIZON, dtype=np.float32))[:, None] / 100
    return ActionChunk(actions, np.full(5, tick, np.float32), version, EPOCH_NS + round(tick * PERIOD_NS))


class Server:
    """Answers requests for the ticks in ``answered`` at once."""

    def __init__(self, answered: set[float], version: str = "v1", **settings) -> None:
        self.answered, self.version = answered, version
        self.asked: list[tuple[float, str]] = []
        self.client = ChunkClient(self.ask, PERIOD_NS / 1e9, GRIPPER, **{"wait_s": lambda: 0.0, **settings})
        self.client.version = "v1"

    def ask(self, observation: Observation, version: str) -> None:
        tick = (max(observation.stamp_ns.values()) - EPOCH_NS) / PERIOD_NS
        self.asked.append((tick, version))
        if tick in self.answered:
            self.client.received(observation.stamp_ns, chunk(tick, self.version))

    def infer(self, tick: float) -> ActionChunk:
        (answer,) = self.client.infer([seen(tick)])
        return answer


def test_the_chunk_that_answers_the_observation_is_taken_as_it_came() -> None:
    server = Server({0, 1})
    answer = server.infer(1)
    assert answer.actions.tobytes() == chunk(1).actions.tobytes()
    assert answer.stamp_ns == chunk(1).stamp_ns
    assert server.asked == [(1, "v1")]
    assert server.client.late == 0


def test_a_chunk_that_is_there_already_is_not_asked_for() -> None:
    server = Server(set())
    server.client.received(stamps(3), chunk(3))
    assert server.infer(3).features[0] == 3
    assert server.asked == []


def test_a_chunk_that_comes_while_the_tick_waits_is_in_time() -> None:
    def answer_from_elsewhere(observation: Observation, version: str) -> None:
        threading.Thread(target=client.received, args=(observation.stamp_ns, chunk(7))).start()

    client = ChunkClient(answer_from_elsewhere, 0.05, GRIPPER, wait_s=lambda: 60.0)
    client.version = "v1"
    assert client.infer([seen(7)])[0].features[0] == 7
    assert client.late == 0


@pytest.mark.parametrize("late_ns", [-20_000_000, 0, 20_000_000])
def test_without_it_the_last_chunk_goes_on_from_the_entry_that_is_due(late_ns: int) -> None:
    server = Server(set())
    server.client.received(stamps(10), chunk(10))
    answer = server.infer(12 + late_ns / PERIOD_NS)  # no clock is so exact that two ticks are 100.0 ms
    np.testing.assert_array_equal(answer.actions[:2], chunk(10).actions[2:])
    assert answer.actions.shape == (HORIZON, 3)
    assert answer.features[0] == 10
    assert answer.policy_version == "v1"
    assert server.client.late == 1


def test_what_was_planned_while_the_arm_waited_to_begin_is_begun_with() -> None:
    server = Server(set())
    server.client.received(stamps(10), chunk(10))
    server.client.begin(EPOCH_NS + 14 * PERIOD_NS)
    np.testing.assert_array_equal(server.infer(14).actions, chunk(10).actions)
    np.testing.assert_array_equal(server.infer(15).actions[:2], chunk(10).actions[1:3])


def test_of_several_chunks_the_newest_of_the_past_goes_on() -> None:
    server = Server(set())
    for tick in (11, 9, 14):  # in whatever order; one is from after the observation
        server.client.received(stamps(tick), chunk(tick))
    np.testing.assert_allclose(server.infer(12).actions[0, :2], 0.12)


def test_a_late_chunk_serves_the_later_ticks() -> None:
    server = Server({0})
    server.infer(0)
    server.infer(1)
    server.client.received(stamps(1), chunk(1))
    np.testing.assert_array_equal(server.infer(2).actions[:3], chunk(1).actions[1:])


def test_after_its_end_the_arm_holds_and_keeps_its_gripper() -> None:
    server = Server({0})
    server.infer(0)
    assert server.infer(HORIZON - 1).actions[:, 0].tolist() == pytest.approx([0.03, 0, 0, 0])
    for tick in (HORIZON - 1, HORIZON, HORIZON + 1):
        answer = server.infer(tick).actions
        assert answer[:, GRIPPER].tolist() == [-1] * HORIZON
    np.testing.assert_array_equal(answer[:, :2], 0)


def test_without_a_gripper_a_hold_is_zero() -> None:
    client = ChunkClient(lambda observation, version: None, 0.05, None, wait_s=lambda: 0.0)
    client.version = "v1"
    client.received(stamps(0), chunk(0))
    assert not client.infer([seen(HORIZON)])[0].actions.any()


def test_a_silence_longer_than_the_hold_gives_the_episode_up() -> None:
    server = Server({0}, hold_ticks=3)
    server.infer(0)
    for tick in range(1, HORIZON + 3):
        server.infer(tick)
    with pytest.raises(ContractError, match="silent for 7 ticks; the arm held for 3"):
        server.infer(HORIZON + 3)


def test_without_any_chunk_there_is_nothing_to_go_on_with() -> None:
    with pytest.raises(ContractError, match="not answered yet"):
        Server(set()).infer(0)


def test_chunks_of_another_policy_count_for_nothing() -> None:
    server = Server({1}, version="v2")
    server.client.received(stamps(0), chunk(0, "v1"))
    np.testing.assert_allclose(server.infer(1).actions[0, :2], 0.01)  # v1's, one tick on
    server.client.version = "v3"
    with pytest.raises(ContractError):
        server.infer(1)


def test_the_right_policy_s_answer_to_the_same_observation_replaces_the_wrong_one_s() -> None:
    server = Server({0})
    server.client.received(stamps(0), chunk(0, "v0"))
    assert server.infer(0).policy_version == "v1"


def test_a_long_run_keeps_few_chunks_and_the_newest_of_them() -> None:
    server = Server(set(range(1000)))
    for tick in range(1000):
        server.infer(tick)
    server.answered = set()
    np.testing.assert_allclose(server.infer(1000).actions[0, 0], 10.0, rtol=1e-6)
    with pytest.raises(ContractError, match="no earlier chunk"):
        server.infer(900)


def test_expect_learns_the_policy_s_sizes() -> None:
    server = Server({0}, version="v2")
    server.client.expect("v2", seen(0), timeout_s=0.0)
    assert (server.client.version, server.client.action_horizon, server.client.feature_dim) == ("v2", HORIZON, 5)


def test_expect_says_which_policy_did_not_answer_in_which_time() -> None:
    server = Server({0}, version="v1")
    with pytest.raises(RobotUnavailableError, match=r"No chunk of policy v2 within 0\.0 s.*VLA server"):
        server.client.expect("v2", seen(0), timeout_s=0.0)
