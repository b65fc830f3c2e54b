"""A simulated Franka for all tests of its driver, which a module shares. It takes the extra "franka"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # not loaded for tests without a Franka
    from pld_ros.benches.franka_simulator import FrankaSimulator
    from pld_ros.drivers.real_arm import RealArm


@pytest.fixture(scope="module")
def simulator() -> Iterator[FrankaSimulator]:
    """A process; the arm's tool stands near the middle of the workspace."""
    pytest.importorskip("franky", reason="needs the extra 'franka'")
    from franka_tools import HOME_RAD

    from pld_ros.benches.franka_simulator import FrankaSimulator

    with FrankaSimulator(joints_rad=HOME_RAD) as started:
        yield started


@pytest.fixture
def calm(simulator: FrankaSimulator) -> Iterator[RealArm]:
    """Its driver, connected, which does not mind how slow the simulator is on a machine with other work."""
    from franka_tools import CALM, driver_at

    made = driver_at(simulator.host, **CALM)
    made.connect()
    yield made
    made.close()
