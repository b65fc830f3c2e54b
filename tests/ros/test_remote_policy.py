"""A base policy that a third process serves: slow, killed in mid-episode, started again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest
from station import Marching, Station, entry
from test_faults import CHUNK, assert_goes_on, assert_kept, assert_same_rows, measured

from pld_core.types import ActionChunk, Observation
from tests.contract.served import Served

pytestmark = pytest.mark.slow
DELAY_S = 0.15


class SlowMarching(Marching):
    """Marching that takes three ticks to think."""

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        time.sleep(DELAY_S)
        return super().infer(observations)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    served = Served("--policy", f"{__name__}:{SlowMarching.__name__}")
    yield served
    served.end()


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory, domain: int, served: Served) -> Iterator[Station]:
    folder = tmp_path_factory.mktemp("remote_policy")
    station = Station(folder, folder / "run", domain, policy=served.url)
    try:
        station.start(*station.nodes)
        station.ready()
        yield station
    finally:
        station.close()


def test_a_slow_server_costs_no_tick(station: Station) -> None:
    """While the next chunk is computed the last one goes on, from the entry that is due: none is a hold."""
    for _ in range(5):
        running = station.running(30)
        episode = station.finished(running)
        steps = [step for step in station.steps(running.episode_id) if not step.closing]
        assert_same_rows(episode, steps)
        if not episode.voided:
            break
        assert station.is_load(station.ended(running).message.reason)
    entries = [entry(step) for step in steps]
    assert len(entries) >= 30
    assert 0 not in entries
    assert max(entries) > 2, "the delay was there"


def test_a_server_that_is_killed_in_mid_episode(station: Station, served: Served) -> None:
    def kill() -> float:
        killed = time.monotonic()
        served.kill()
        return killed

    running, killed, outcome = station.spoilt(kill, served.start, "The VLA server has been silent")
    measured("policy server killed: the episode is void", outcome.at - killed)
    entries = [entry(step) for step in station.steps(running.episode_id)]
    held = len(entries) - entries.index(0)
    assert max(entries) <= CHUNK
    assert set(entries[-held:]) == {0}, "the chunk, then a hold to the end"
    assert_kept(station, running)
    served.start()
    assert_goes_on(station)
