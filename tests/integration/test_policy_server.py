"""The policy server with many clients at once, and with base and specialist together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pld_core.control import ResidualController, SafetyLimits
from pld_core.errors import ContractError
from pld_core.serve.backends import PolicyBackend, Question, SpecialistBackend
from pld_core.serve.batcher import Batcher
from pld_core.serve.server import PolicyServer
from pld_core.types import ActionChunk, ActionSpec, EpisodeSpec, Observation
from pld_core.vla.remote import RemoteVLA
from pld_core.vla.remote.connection import PolicyServerError
from pld_core.vla.remote.key_map import OwnKeys


def observation(value: float) -> Observation:
    return Observation({}, np.full(4, value, np.float32), "reach")


class Echo:
    """Answers what it was shown, and remembers in which company; gate: how often it may answer."""

    version, action_horizon, feature_dim = "echo", 3, 0

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate: threading.Semaphore | None = None

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        if self.gate is not None:
            assert self.gate.acquire(timeout=60.0)
        self.batches.append(len(observations))
        values = [float(seen.proprio[0]) for seen in observations]
        if 0.5 in values:
            raise ContractError("0.5 is not liked here.")
        nothing = np.zeros(0, np.float32)
        return [ActionChunk(np.full((3, 2), value, np.float32), nothing, self.version) for value in values]


class Serving:
    """A server on a thread of this process."""

    def __init__(self, server: PolicyServer) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(server),))
        self._known = threading.Event()
        self._thread.start()
        assert self._known.wait(60.0)

    async def _run(self, server: PolicyServer) -> None:
        started: asyncio.Future[int] = self._loop.create_future()
        self._task = asyncio.create_task(server.run("127.0.0.1", 0, started))
        self.url = f"ws://127.0.0.1:{await started}"
        self._known.set()
        await asyncio.wait([self._task])

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def serving(echo: Echo) -> Iterator[Serving]:
    serving = Serving(PolicyServer(PolicyBackend(echo, lanes=8), OwnKeys(), most=4))
    yield serving
    serving.close()


def test_who_waits_is_answered_together_and_nobody_gets_anothers_answer(serving: Serving, echo: Echo) -> None:
    echo.gate = threading.Semaphore(0)
    policies = [RemoteVLA(serving.url) for _ in range(7)]
    values = [0.1 * k for k in (-3, -2, -1, 0, 1, 2, 3)]
    with ThreadPoolExecutor(7) as pool:
        asked = [pool.submit(p.infer, [observation(v)]) for p, v in zip(policies, values, strict=True)]
        echo.gate.release(100)
        answers = [future.result(60.0)[0] for future in asked]
    for value, chunk in zip(values, answers, strict=True):
        np.testing.assert_array_equal(chunk.actions, np.full((3, 2), value, np.float32))
    assert sum(echo.batches) == 7
    assert max(echo.batches) <= 4
    for policy in policies:
        policy.close()


def test_what_waits_while_it_computes_is_its_next_batch(echo: Echo) -> None:
    async def ask() -> None:
        echo.gate = threading.Semaphore(0)
        async with Batcher(PolicyBackend(echo).answer, 4) as batcher:
            questions: list[Question] = [(k, observation(0.01 * k)) for k in range(7)]
            asked = [asyncio.create_task(batcher.ask(question)) for question in questions[:1]]
            await asyncio.sleep(0)  # it computes
            while batcher._waiting:
                await asyncio.sleep(0)
            asked += [asyncio.create_task(batcher.ask(question)) for question in questions[1:]]
            await asyncio.sleep(0)
            asked[2].cancel()  # a client that went away
            await asyncio.sleep(0)
            echo.gate.release(100)
            await asyncio.gather(*asked, return_exceptions=True)
            assert [task.cancelled() for task in asked] == [False, False, True, False, False, False, False]

    asyncio.run(ask())
    assert echo.batches == [1, 3, 2]


def test_one_clients_mistake_is_its_own(serving: Serving, echo: Echo) -> None:
    good, bad = RemoteVLA(serving.url), RemoteVLA(serving.url)
    echo.gate = threading.Semaphore(0)
    with ThreadPoolExecutor(2) as pool:
        asked, wrong = pool.submit(good.infer, [observation(0.25)]), pool.submit(bad.infer, [observation(0.5)])
        echo.gate.release(100)
        assert asked.result(60.0)[0].actions[0, 0] == 0.25
        with pytest.raises(PolicyServerError, match="is not liked here"):
            wrong.result(60.0)
    assert bad.infer([observation(0.75)])[0].actions[0, 0] == 0.75
    good.close()
    bad.close()


def test_more_clients_than_lanes(serving: Serving) -> None:
    policy = RemoteVLA(serving.url, deadline_s=1.0)
    with pytest.raises(PolicyServerError, match="8 clients are served already"):
        policy.infer([observation(0.0)] * 9)
    policy._deadline_s = 60.0
    assert len(policy.infer([observation(0.0)] * 8)) == 8  # those that went have freed their lanes
    policy.close()


class Up:
    """A residual that moves by what it is shown of the base."""

    def act(self, state: np.ndarray, base_action: np.ndarray, images: object, seeds: object) -> np.ndarray:
        return np.tile(state[:, -1:], (1, base_action.shape[1]))


def controller(echo: Echo, lanes: int) -> ResidualController:
    return ResidualController(echo, SafetyLimits(ActionSpec(dim=2, gripper=None)), lanes, replan_every=2)


def test_a_specialist_does_each_tick_as_a_runner_would(echo: Echo) -> None:
    backend = SpecialistBackend(controller(echo, 3), Up(), 0.5, "specialist", lanes=3)
    serving = Serving(PolicyServer(backend, OwnKeys()))
    ticks = {name: [0.1 * sign, 0.2 * sign, 0.3 * sign, -0.4 * sign] for name, sign in (("one", 1), ("two", -1))}
    for name, values in ticks.items():  # two clients, one after the other on the same lane
        alone = controller(Echo(), 1)
        alone.reset(0, EpisodeSpec("reach", 0, "evaluate", t_base=0, xi=0.5))
        policy = RemoteVLA(serving.url)
        assert (policy.action_horizon, policy.version) == (1, "specialist")
        for value in values:
            served = policy.infer([observation(value)])[0].actions
            np.testing.assert_array_equal(served, [alone.tick([0], [observation(value)], Up())[0].action], name)
        policy.close()
    serving.close()
