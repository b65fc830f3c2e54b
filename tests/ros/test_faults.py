"""What can go wrong on a station, done to real processes over real DDS. docs/ros.md has the table."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from station import NODES, Station

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory, domain: int) -> Iterator[Station]:
    folder = tmp_path_factory.mktemp("faults")
    station = Station(folder, folder / "run", domain)
    try:
        station.start(*NODES)
        station.ready()
        yield station
    finally:
        station.close()


def measured(fault: str, seconds: float) -> None:
    """For the table in docs/ros.md; shown with ``pytest -s``."""
    print(f"\nmeasured: {fault}: {1e3 * seconds:.0f} ms")


def test_a_frozen_camera_voids_the_episode(station: Station) -> None:
    running = station.running()
    frozen = station.signal("camera", signal.SIGSTOP)
    outcome = station.ended(running)
    station.signal("camera", signal.SIGCONT)
    measured("camera frozen, episode void", outcome.at - frozen)
    assert "older than 150 ms" in outcome.message.reason
    assert running.data.result(60).voided
    assert not station.next_episode().voided
