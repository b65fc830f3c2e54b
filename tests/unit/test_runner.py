"""Episodes from lanes: what a fault spoils, when episodes arrive, and how a run is stopped."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError

import numpy as np
import pytest

from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import ContractError, NonFiniteError
from pld_core.rewards import BinaryReward, binary
from pld_core.stages.background import BackgroundRunner
from pld_core.stages.runner import VOIDED_IN_A_ROW, LocalRunner
from pld_core.types import Episode, EpisodeSpec, Mode, Observation, TimeStep
from pld_core.vla.callable_policy import CallablePolicy
from pld_sim.point_reach import PointReach, biased_base

Spoil = Callable[[Observation], Observation]


def nan_proprio(observation: Observation) -> Observation:
    return dataclasses.replace(observation, proprio=np.full_like(observation.proprio, np.nan))


def without_camera(observation: Observation) -> Observation:
    return dataclasses.replace(observation, images={})


def refused(observation: Observation) -> Observation:
    raise ContractError("The driver delivered half a frame.")


class Faulty(PointReach):
    """Spoils what is seen at one tick (0: the first look) of the episodes with the given seeds."""

    def __init__(self, seeds: set[int], tick: int = 3, spoil: Spoil = nan_proprio) -> None:
        super().__init__(camera=True)
        self._seeds, self._tick, self._spoil = seeds, tick, spoil

    def reset(self, seed: int) -> TimeStep:
        self._seed = seed
        return self._judge(super().reset(seed))

    def step(self, action: np.ndarray) -> TimeStep:
        return self._judge(super().step(action))

    def _judge(self, step: TimeStep) -> TimeStep:
        if self._seed not in self._seeds or self._ticks != self._tick:
            return step
        return dataclasses.replace(step, observation=self._spoil(step.observation))


def still(observation: Observation) -> np.ndarray:
    return np.zeros(3, np.float32)


def specs(count: int) -> list[EpisodeSpec]:
    return [EpisodeSpec("point_reach", seed) for seed in range(count)]


def run(faulty: set[int], count: int = 7, lanes: int = 3, act=still, **settings) -> list[Episode]:
    runner = LocalRunner([Faulty(faulty, **settings) for _ in range(lanes)], CallablePolicy(act), binary)
    return list(runner.run(specs(count)))


def same(one: Episode, other: Episode) -> bool:
    columns = ("proprio", "state", "base_action", "action", "residual", "reward", "source")
    return all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in columns)


@pytest.mark.parametrize("spoil", [nan_proprio, without_camera, refused])
def test_a_fault_voids_its_own_episode_and_no_other(spoil: Spoil) -> None:
    sound, spoiled = run(set()), run({2}, spoil=spoil)
    assert [episode.voided for episode in spoiled] == [seed == 2 for seed in range(7)]
    assert all(same(a, b) for k, (a, b) in enumerate(zip(sound, spoiled, strict=True)) if k != 2)
    kept = spoiled[2]
    assert not kept.success
    assert not kept.terminated
    assert kept.proprio[:3].tobytes() == sound[2].proprio[:3].tobytes()  # what came before the fault is there


def test_a_fault_at_the_first_look_leaves_an_empty_voided_episode(tmp_path) -> None:
    voided = run({1}, tick=0, spoil=refused)[1]
    assert voided.voided
    assert len(voided) == 0
    assert voided.proprio.shape == (1, 4)
    assert voided.state.shape == (1, 4 + 3)
    assert np.isnan(voided.proprio).all()  # nothing was seen, and nothing is made up
    store = EpisodeStore(tmp_path)
    store.append(voided)
    (stored,) = store
    assert stored.voided
    assert stored.action.shape == (0, 3)


def test_nan_from_the_policy_voids_only_the_episode_that_asked() -> None:
    marked = PointReach(camera=True).reset(4).observation.images["top"]

    def act(observation: Observation) -> np.ndarray:
        return np.full(3, np.nan if np.array_equal(observation.images["top"], marked) else 0.0)

    assert [episode.voided for episode in run(set(), act=act)] == [seed == 4 for seed in range(7)]


def test_a_fault_that_lasts_stops_the_run_after_what_it_spoiled_was_handed_over() -> None:
    runner = LocalRunner([Faulty(set(range(2, 20))) for _ in range(4)], CallablePolicy(still), binary)
    seen = []
    with pytest.raises(NonFiniteError, match="proprioception holds NaN"):
        seen.extend(runner.run(specs(20)))
    assert [episode.voided for episode in seen] == [False] * 2 + [True] * VOIDED_IN_A_ROW


def test_faults_with_a_sound_episode_between_them_do_not_stop_the_run() -> None:
    spoiled = {seed for seed in range(15) if seed % VOIDED_IN_A_ROW}
    assert sum(episode.voided for episode in run(spoiled, count=15)) == 12


class Concurrent(Faulty):
    """Its ticks run elsewhere; ``log`` says when they were begun and waited for. Seed 3 breaks in tick 2."""

    def __init__(self, log: list[str], late: bool) -> None:
        super().__init__(set())
        self._log, self._late = log, late

    def begin_step(self, action: np.ndarray) -> Callable[[], TimeStep]:
        self._log.append("begin")
        self._break(not self._late)
        return lambda: self._finish(action)

    def _finish(self, action: np.ndarray) -> TimeStep:
        self._log.append("wait")
        self._break(self._late)
        return self.step(action)

    def _break(self, now: bool) -> None:
        if now and self._seed == 3 and self._ticks == 2:
            raise ContractError("The worker is gone.")


@pytest.mark.parametrize("late", [False, True])
def test_ticks_that_run_elsewhere_run_side_by_side(late: bool) -> None:
    log: list[str] = []
    runner = LocalRunner([Concurrent(log, late) for _ in range(3)], CallablePolicy(still), binary)
    episodes = list(runner.run(specs(7)))
    assert log[:6] == ["begin"] * 3 + ["wait"] * 3
    assert [episode.voided for episode in episodes] == [seed == 3 for seed in range(7)]
    assert all(same(a, b) for k, (a, b) in enumerate(zip(run(set()), episodes, strict=True)) if k != 3)


def test_all_lanes_plan_in_the_same_ticks() -> None:
    class Uneven(PointReach):
        def reset(self, seed: int) -> TimeStep:
            self.max_steps = 5 + 3 * (seed % 4)
            return super().reset(seed)

    class Counting(CallablePolicy):
        def infer(self, observations):
            asked.append(len(observations))
            return super().infer(observations)

    policy = Counting(lambda seen: np.tile(still(seen), (4, 1)), horizon=4)
    lengths, batches = {}, {}
    for lanes in (1, 2):
        asked: list[int] = []
        runner = LocalRunner([Uneven() for _ in range(lanes)], policy, binary, 4)
        lengths[lanes] = [len(episode) for episode in runner.run(specs(7))]
        batches[lanes] = asked
    assert lengths[1] == lengths[2] == [5, 8, 11, 14, 5, 8, 11]
    assert batches == {1: 20 * [1], 2: 10 * [2]}


@pytest.mark.parametrize(
    ("record_images", "recorded_every", "every_tick", "wanted"),
    [(False, 1, False, 4), (True, 1, False, 1), (True, 2, False, 2), (True, 2, True, 1), (False, 1, True, 1)],
)
def test_pictures_are_taken_where_somebody_looks_at_them(
    record_images: bool, recorded_every: int, every_tick: bool, wanted: int
) -> None:
    class Leaving(PointReach):
        image_every = 7

    environment = Leaving()
    policy = CallablePolicy(lambda seen: np.tile(still(seen), (4, 1)), horizon=4)
    runner = LocalRunner([environment], policy, binary, 4, images_every_tick=every_tick, recorded_every=recorded_every)
    list(runner.run([dataclasses.replace(specs(1)[0], record_images=record_images)]))
    assert environment.image_every == wanted


@pytest.mark.parametrize(
    ("mode", "asked", "looks", "wanted"),
    [("learn", True, False, True), ("evaluate", True, False, False), ("learn", False, False, False),
     ("probe", True, True, False)],
)  # fmt: skip
def test_simplified_pictures_are_for_practice_alone(mode: Mode, asked: bool, looks: bool, wanted: bool) -> None:
    """looks: the reward judges by them."""

    class Simplifying(PointReach):
        simplified = not wanted

    class Reward(BinaryReward):
        sees_for_itself = looks

    environment = Simplifying()
    runner = LocalRunner([environment], CallablePolicy(still), Reward, simplified_images=asked)
    list(runner.run([dataclasses.replace(specs(1)[0], mode=mode)]))
    assert environment.simplified == wanted


def test_a_reward_that_is_not_finite_is_a_fault() -> None:
    class Nan:
        def reset(self) -> None: ...

        def score(self, step: TimeStep) -> tuple[float, bool]:
            return float("nan"), False

    runner = LocalRunner([PointReach()], CallablePolicy(biased_base), Nan)
    with pytest.raises(NonFiniteError, match="reward"):
        list(runner.run(specs(VOIDED_IN_A_ROW)))


def test_episodes_arrive_while_the_others_still_run() -> None:
    arrived = threading.Event()

    class Waiting(PointReach):
        def reset(self, seed: int) -> TimeStep:
            assert seed == 0 or arrived.wait(60), "the first episode was held back"
            return super().reset(seed)

    background = BackgroundRunner(lambda: LocalRunner([Waiting()], CallablePolicy(biased_base), binary))
    for episode in background.run(specs(2)):
        assert episode.spec.seed in (0, 1)
        arrived.set()
    assert [episode.spec.seed for episode in background.submit(specs(2)).result()] == [0, 1]
    background.close()


class Endless(PointReach):
    """After seed 0 an episode never ends by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.running = threading.Event()

    def reset(self, seed: int) -> TimeStep:
        step = super().reset(seed)
        if seed:
            self.max_steps = 10**12
        return step

    def step(self, action: np.ndarray) -> TimeStep:
        if self.max_steps > 30:
            self.running.set()
        return super().step(action)


def test_close_ends_an_episode_that_is_under_way() -> None:
    environment = Endless()
    background = BackgroundRunner(lambda: LocalRunner([environment], CallablePolicy(still), binary))
    other = background.with_policy(CallablePolicy(still))
    future = other.submit([EpisodeSpec("point_reach", 1)])
    assert environment.running.wait(60)
    background.close()
    with pytest.raises(CancelledError):
        future.result()


def test_an_interrupted_caller_gets_away_with_its_interrupt() -> None:
    background = BackgroundRunner(lambda: LocalRunner([Endless()], CallablePolicy(still), binary))

    def collect() -> None:
        try:
            for _ in background.run(specs(2)):
                raise KeyboardInterrupt
        finally:
            background.close()

    with pytest.raises(KeyboardInterrupt):
        collect()
