"""Replay: what goes in comes out, across wrap-around and episode borders."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pld_core.data.replay import Batch, ReplayBuffer, state_moments
from pld_core.data.symmetric import SymmetricReplay
from pld_core.errors import CheckpointError, ConfigError, ContractError, NonFiniteError
from pld_core.types import Episode, EpisodeSpec

CAMERA = {"wrist": (2, 2, 3)}


def make_episode(number: int, ticks: int, terminated: bool = True, images: bool = False) -> Episode:
    """Every entry names its episode and tick, so that a mix-up cannot hide."""
    rng = np.random.default_rng(number)
    rows = np.stack([np.full(ticks + 1, number), np.arange(ticks + 1)], 1).astype(np.float32)
    frames = np.broadcast_to((rows[:, 1] + 10 * number)[:, None, None, None], (ticks + 1, 2, 2, 3))
    return Episode(
        spec=EpisodeSpec("toy", number),
        instruction="",
        proprio=rows,
        state=rows,
        images={"wrist": (frames % 256).astype(np.uint8)} if images else {},
        base_action=rows[:, 1:] / 100.0,
        residual=np.zeros((ticks, 1), np.float32),
        action=rows[:-1, 1:] / 50.0 + number,
        reward=rng.uniform(0, 1, ticks).astype(np.float32),
        source=np.zeros(ticks, np.uint8),
        intervention=np.zeros(ticks, bool),
        terminated=terminated,
        truncated=not terminated,
        success=terminated,
    )


def make_buffer(capacity: int, **options) -> ReplayBuffer:
    return ReplayBuffer(capacity, state_dim=2, action_dim=1, **options)


def everything(buffer: ReplayBuffer) -> Batch:
    """All transitions once, through the sampling path."""

    class EachOnce:
        def integers(self, low: int, high: int, n: int) -> np.ndarray:
            return np.arange(low, high)

    return buffer.sample(EachOnce(), len(buffer))  # type: ignore[arg-type]


@settings(max_examples=60)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=1, max_size=12),
    capacity=st.integers(8, 23),
    n_step=st.integers(1, 4),
)
def test_returns_exactly_what_survives_in_the_ring(lengths, capacity, n_step):
    gamma = 0.9
    buffer = make_buffer(capacity, gamma=gamma, n_step=n_step, image_specs=CAMERA)
    episodes = [make_episode(i, ticks, ended, images=True) for i, (ticks, ended) in enumerate(lengths)]
    written = []  # (episode, tick) of every row ever written
    for episode in episodes:
        buffer.add(episode)
        written += [(episode.spec.seed, t) for t in range(len(episode) + 1)]
    alive = {(e, t) for e, t in written[-capacity:] if t < len(episodes[e])}
    batch = everything(buffer)
    found = [(int(e), int(t)) for e, t in batch.state]
    assert sorted(found) == sorted(alive)
    for i, (e, t) in enumerate(found):
        episode = episodes[e]
        k = min(n_step, len(episode) - t)
        ends = t + k == len(episode) and episode.terminated
        np.testing.assert_array_equal(batch.next_state[i], [e, t + k])
        np.testing.assert_array_equal(batch.base_action[i], episode.base_action[t])
        np.testing.assert_array_equal(batch.next_base_action[i], episode.base_action[t + k])
        np.testing.assert_array_equal(batch.action[i], episode.action[t])
        np.testing.assert_array_equal(batch.images["wrist"][i], episode.images["wrist"][t])
        np.testing.assert_array_equal(batch.next_images["wrist"][i], episode.images["wrist"][t + k])
        expected = sum(gamma**j * float(episode.reward[t + j]) for j in range(k))
        assert batch.reward[i] == pytest.approx(expected, rel=1e-5)
        assert batch.discount[i] == pytest.approx(0.0 if ends else gamma**k, rel=1e-6)
        assert batch.mc_return[i] == pytest.approx(episode.mc_return(gamma)[t], rel=1e-6)


def test_bootstraps_through_truncation_and_not_through_termination():
    for terminated, last in ((True, 0.0), (False, 0.9)):
        buffer = make_buffer(10, gamma=0.9)
        buffer.add(make_episode(1, 3, terminated))
        batch = everything(buffer)
        np.testing.assert_allclose(batch.discount, [0.9, 0.9, last], rtol=1e-6)
        np.testing.assert_array_equal(batch.next_state[-1], [1, 3])  # the row after the last action


def test_n_step_return_by_hand():
    buffer = make_buffer(10, gamma=0.5, n_step=3)
    episode = dataclasses.replace(make_episode(1, 4, terminated=False), reward=np.array([1, 2, 4, 8], np.float32))
    buffer.add(episode)
    batch = everything(buffer)
    np.testing.assert_allclose(batch.reward, [1 + 1 + 1, 2 + 2 + 2, 4 + 4, 8])
    np.testing.assert_allclose(batch.discount, [0.125, 0.125, 0.25, 0.5])
    np.testing.assert_array_equal(batch.next_state[:, 1], [3, 4, 4, 4])


def test_each_frame_is_stored_once():
    buffer = ReplayBuffer(1000, 2, 1, {"wrist": (64, 64, 3)})
    plain = make_buffer(1000)
    assert buffer.bytes_per_transition - plain.bytes_per_transition == 64 * 64 * 3


def test_truncated_return_is_completed_by_the_lower_bound():
    episode = dataclasses.replace(make_episode(1, 2, terminated=False), reward=np.array([-1, -1], np.float32))
    for min_q, expected in ((0.0, [-1.5, -1.0]), (-2.0, [-2.0, -2.0])):
        buffer = make_buffer(10, gamma=0.5, min_q=min_q)
        buffer.add(episode)
        np.testing.assert_allclose(everything(buffer).mc_return, expected)


def test_sampling_is_uniform_and_reproducible():
    buffer = make_buffer(64)
    for i in range(40):  # many times round, so that the index has been shuffled by removals
        buffer.add(make_episode(i, 4))
    drawn = buffer.sample(np.random.default_rng(0), 60_000).state
    again = buffer.sample(np.random.default_rng(0), 60_000).state
    np.testing.assert_array_equal(drawn, again)
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == len(buffer)
    expected = 60_000 / len(buffer)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_stacked_batches_have_two_leading_axes():
    buffer = make_buffer(64, image_specs=CAMERA)
    buffer.add(make_episode(3, 9, images=True))
    batch = buffer.sample_many(np.random.default_rng(0), 5, 7)
    assert batch.state.shape == (5, 7, 2)
    assert batch.reward.shape == (5, 7)
    assert batch.next_images["wrist"].shape == (5, 7, 2, 2, 3)


@pytest.mark.parametrize("column", ["state", "base_action", "action", "residual", "reward"])
def test_refuses_what_is_not_finite_and_writes_nothing(column):
    buffer = make_buffer(20)
    buffer.add(make_episode(1, 5))
    before = {k: v.copy() for k, v in buffer.state_dict().items()}
    values = getattr(make_episode(2, 5), column).copy()
    values[3] = np.nan
    with pytest.raises(NonFiniteError, match=column):
        buffer.add(dataclasses.replace(make_episode(2, 5), **{column: values}))
    after = buffer.state_dict()
    assert all(np.array_equal(before[k], after[k]) for k in before)


def test_refuses_faulty_episodes():
    buffer = make_buffer(20, image_specs=CAMERA)
    with pytest.raises(ContractError, match="voided"):
        buffer.add(dataclasses.replace(make_episode(1, 5), voided=True))
    with pytest.raises(ContractError, match="wrist"):
        buffer.add(make_episode(1, 5))
    with pytest.raises(ContractError, match="capacity"):
        buffer.add(make_episode(1, 20, images=True))
    with pytest.raises(ContractError, match="'state' has shape"):
        buffer.add(dataclasses.replace(make_episode(1, 5, images=True), state=np.zeros((6, 3), np.float32)))
    with pytest.raises(ContractError, match="no transition"):
        buffer.sample(np.random.default_rng(0), 4)
    with pytest.raises(ConfigError):
        make_buffer(1)


def test_a_saved_buffer_goes_on_bit_for_bit():
    original = make_buffer(30, n_step=2, image_specs=CAMERA)
    for i in range(9):
        original.add(make_episode(i, 3 + i % 4, images=True))
    copy = make_buffer(30, n_step=2, image_specs=CAMERA)
    copy.load_state_dict({k: v.copy() for k, v in original.state_dict().items()})
    for i in range(9, 14):
        for buffer in (original, copy):
            buffer.add(make_episode(i, 5, images=True))
        a, b = (buffer.sample(np.random.default_rng(i), 50) for buffer in (original, copy))
        assert all(np.array_equal(x, y) for x, y in zip(a[:-2], b[:-2], strict=True))
        np.testing.assert_array_equal(a.images["wrist"], b.images["wrist"])
    with pytest.raises(CheckpointError, match="capacity"):
        make_buffer(31, n_step=2, image_specs=CAMERA).load_state_dict(original.state_dict())
    with pytest.raises(CheckpointError, match="columns"):
        make_buffer(30).load_state_dict(original.state_dict())


def test_a_partly_filled_buffer_saves_only_its_rows():
    buffer = make_buffer(100_000)
    buffer.add(make_episode(1, 5))
    assert sum(v.nbytes for v in buffer.state_dict().values()) < 1000


def test_a_cleared_buffer_is_as_new():
    used, fresh = make_buffer(30), make_buffer(30)
    used.add(make_episode(1, 5))
    used.clear()
    assert len(used) == used.rows == 0
    for buffer in (used, fresh):
        buffer.add(make_episode(2, 3))
    for name, column in fresh.state_dict().items():
        np.testing.assert_array_equal(used.state_dict()[name], column)


def test_state_moments():
    buffer = make_buffer(30)
    buffer.add(make_episode(2, 3))
    mean, std = state_moments(buffer, make_buffer(30))
    np.testing.assert_allclose(mean, [2.0, 1.5])
    np.testing.assert_allclose(std, [0.0, np.std([0, 1, 2, 3])], rtol=1e-6)
    with pytest.raises(ContractError, match="nothing to normalise"):
        state_moments(make_buffer(30))


def test_symmetric_batches_are_half_and_half():
    offline, online = make_buffer(30), make_buffer(30)
    offline.add(make_episode(1, 5))
    replay = SymmetricReplay(offline, online)
    rng = np.random.default_rng(0)
    assert (replay.sample(rng, 8).state[:, 0] == 1).all()  # nothing online yet
    online.add(make_episode(2, 5))
    np.testing.assert_array_equal(replay.sample(rng, 8).state[:, 0], [1] * 4 + [2] * 4)
    stacked = replay.sample_many(rng, 3, 8)
    assert stacked.state.shape == (3, 8, 2)
    np.testing.assert_array_equal(stacked.state[..., 0], [[1] * 4 + [2] * 4] * 3)
    assert (SymmetricReplay(offline, online, 0.0).sample(rng, 8).state[:, 0] == 2).all()
    assert len(replay) == 10
    with pytest.raises(ConfigError):
        SymmetricReplay(offline, online, 1.5)
