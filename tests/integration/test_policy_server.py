"""The policy server with many clients at once, and with base and specialist together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from websockets.sync.client import connect

from pld_core.control import ResidualController, SafetyLimits
from pld_core.errors import PolicyUnavailableError
from pld_core.serve.backends import PolicyBackend, Question, SpecialistBackend
from pld_core.serve.batcher import Batcher
from pld_core.serve.server import PolicyServer
from pld_core.types import ActionChunk, ActionSpec, EpisodeSpec, Observation
from pld_core.vla.remote import RemoteVLA
from pld_core.vla.remote.connection import PolicyServerError
from pld_core.vla.remote.key_map import OwnKeys
from pld_core.vla.remote.wire import pack, unpack


def observation(value: float) -> Observation:
    return Observation({}, np.full(4, value, np.float32), "reach")


class Echo:
    """Answers what it was shown, and remembers in which company; gate: how often it may answer."""

    version, action_horizon, feature_dim = "echo", 3, 0

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate: threading.Semaphore | None = None
        self.computes = threading.Event()
        self.lost = 0  # answers

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        self.computes.set()
        if self.gate is not None:
            assert self.gate.acquire(timeout=60.0)
        self.batches.append(len(observations))
        values = [float(seen.proprio[0]) for seen in observations]
        if 0.5 in values:
            raise ValueError("0.5 is not liked here.")
        nothing = np.zeros(0, np.float32)
        chunks = [ActionChunk(np.full((3, 2), value, np.float32), nothing, self.version) for value in values]
        return chunks[self.lost :]


class Serving:
    """A server on a thread of this process."""

    def __init__(self, server: PolicyServer) -> None:
        self.server = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(server),), daemon=True)
        self._known = threading.Event()
        self._thread.start()
        assert self._known.wait(60.0)

    async def _run(self, server: PolicyServer) -> None:
        started: asyncio.Future[int] = self._loop.create_future()
        self._task = asyncio.create_task(server.run("127.0.0.1", 0, started))
        self.url = f"ws://127.0.0.1:{await started}"
        self._known.set()
        await asyncio.wait([self._task])

    @staticmethod
    def wait_for(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60.0
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.005)

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


def ask_together(serving: Serving, echo: Echo, values: Sequence[float]) -> list[Future[list[ActionChunk]]]:
    """The answers to clients that all ask while the policy computes for another one."""
    echo.gate = threading.Semaphore(0)
    with ThreadPoolExecutor(len(values) + 1) as pool:
        policies = [RemoteVLA(serving.url) for _ in range(len(values) + 1)]
        first = pool.submit(policies[-1].infer, [observation(0.0)])
        assert echo.computes.wait(60.0)
        asked = [pool.submit(p.infer, [observation(v)]) for p, v in zip(policies, values, strict=False)]
        serving.wait_for(lambda: len(serving.server._batcher._waiting) == len(values))
        echo.gate.release(100)
        assert first.result(60.0)
    for policy in policies:
        policy.close()
    return asked


def test_who_waits_is_answered_together_and_nobody_gets_anothers_answer(serving: Serving, echo: Echo) -> None:
    values = [0.1, -0.2, 0.3, -0.4, 0.6, -0.7]
    for value, answer in zip(values, ask_together(serving, echo, values), strict=True):
        np.testing.assert_array_equal(answer.result()[0].actions, np.full((3, 2), value, np.float32))
    assert echo.batches == [1, 4, 2]


def test_one_clients_mistake_is_its_own(serving: Serving, echo: Echo) -> None:
    values = [0.25, 0.5, 0.75]
    good, bad, other = ask_together(serving, echo, values)
    assert (good.result()[0].actions[0, 0], other.result()[0].actions[0, 0]) == (0.25, 0.75)
    with pytest.raises(PolicyServerError, match="is not liked here"):
        bad.result()
    assert echo.batches == [1, 3, 1, 1, 1]


def test_a_policy_that_answers_too_few_is_an_error_and_serves_on(serving: Serving, echo: Echo) -> None:
    policy = RemoteVLA(serving.url)
    echo.lost = 1
    with pytest.raises(PolicyServerError, match="answered 0 chunks for 1"):
        policy.infer([observation(0.25)])
    echo.lost = 0
    assert policy.infer([observation(0.25)])[0].actions[0, 0] == 0.25
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


def test_more_clients_than_lanes(serving: Serving) -> None:
    many, late = RemoteVLA(serving.url), RemoteVLA(serving.url)
    assert len(many.infer([observation(0.0)] * 7)) == 7  # the eighth lane is the other's
    with pytest.raises(PolicyUnavailableError, match="8 clients are served already"):
        RemoteVLA(serving.url, connect_s=0.3)
    late.close()
    again = RemoteVLA(serving.url)  # who goes frees a lane
    again.close()
    many.close()


class Up:
    """A residual that moves by what it is shown of the base."""

    def act(self, state: np.ndarray, base_action: np.ndarray, images: object, seeds: object) -> np.ndarray:
        return np.tile(state[:, -1:], (1, base_action.shape[1]))


def controller(echo: Echo, lanes: int) -> ResidualController:
    return ResidualController(echo, SafetyLimits(ActionSpec(dim=2, gripper=None)), lanes, replan_every=2)


def test_a_specialist_does_each_tick_as_a_runner_would(echo: Echo) -> None:
    """Three clients, each begins in the middle of the plan that the one before it has left on the lane."""
    serving = Serving(PolicyServer(SpecialistBackend(controller(echo, 1), Up(), 0.5, "specialist", lanes=1), OwnKeys()))
    try:
        for values, resets in (([0.1, 0.2, 0.3], ()), ([-0.1, 0.2, -0.3], ()), ([0.4, 0.1, -0.2, 0.3], (1,))):
            alone = controller(Echo(), 1)
            with connect(serving.url, proxy=None) as client:
                metadata = unpack(client.recv())
                assert (metadata["action_horizon"], metadata["version"]) == (1, "specialist")
                for tick, value in enumerate(values):
                    if tick == 0 or tick in resets:
                        alone.reset(0, EpisodeSpec("reach", 0, "evaluate", t_base=0, xi=0.5))
                    pictures = {"images": {"unasked": np.zeros((2, 2, 3), np.uint8)}, "reset": tick in resets}
                    client.send(pack({**OwnKeys().request(observation(value)), **pictures}))
                    wanted = alone.tick([0], [observation(value)], Up())[0].action
                    np.testing.assert_array_equal(unpack(client.recv())["actions"], [wanted])
            serving.wait_for(lambda: serving.server._free == [0])
    finally:
        serving.close()
