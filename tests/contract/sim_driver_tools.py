"""What the tests of the simulated twin share: a clock in the hand, and the environment driven directly."""

from __future__ import annotations

import time

import numpy as np

from pld_core.types import RobotState, TimeStep
from pld_ros.drivers.sim import SimDriver
from pld_sim.tabletop import make_environments

PERIOD_S, PERIOD_NS = 0.05, 50_000_000
EPOCH_NS = 1_700_000_000_000_000_000


class HandTime:
    """A clock that only moves when somebody sleeps, or by hand.

    nap_s: how long a sleep really takes, for tests in which another thread is to run meanwhile.
    """

    def __init__(self, nap_s: float = 0.0) -> None:
        self.now, self._nap_s = 100.0, nap_s

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self._nap_s:
            time.sleep(self._nap_s)

    def time_ns(self) -> int:
        return EPOCH_NS + round((self.now - 100.0) * 1e9)


def make_driver(time: HandTime, task: str = "cube_pickup") -> SimDriver:
    return SimDriver(task, clock=time.clock, sleep=time.sleep, time_ns=time.time_ns)


def take(driver: SimDriver, timeout_s: float = 1.0) -> RobotState:
    state = driver.next_state(timeout_s)
    assert state is not None
    return state


def begin(driver: SimDriver, seed: int = 0) -> RobotState:
    driver.reset(seed)
    return take(driver)


def send(driver: SimDriver, action: np.ndarray) -> np.ndarray:
    return driver.command(action[:6], float(action[6]))


def direct_episode(
    task: str, seed: int, limit: int = 1000
) -> tuple[list[np.ndarray], list[TimeStep], list[np.ndarray]]:
    """Actions of the scripted expert, time steps and snapshots of the environment itself."""
    env = make_environments(task, 1)[0]
    env.renders_cameras = False
    oracle, actions, steps, snapshots = env.oracle(), [], [env.reset(seed)], [env.snapshot()]
    while not steps[-1].last and len(actions) < limit:
        actions.append(oracle.act())
        steps.append(env.step(actions[-1]))
        snapshots.append(env.snapshot())
    env.close()
    return actions, steps, snapshots


def assert_same(state: RobotState, step: TimeStep, snapshot: np.ndarray, tick: int) -> None:
    assert np.array_equal(state.proprio, step.observation.proprio)
    assert state.snapshot is not None
    assert np.array_equal(state.snapshot, snapshot)
    assert state.tick == tick
    assert (state.reward, state.success) == (step.reward, step.success)
    assert not state.terminated  # the twin runs on, whoever drives it ends the episode
    assert not state.truncated
