"""The simulated twin against the driver contract and against its environment, in lockstep, among threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from robot_driver_contract import GENTLE, RobotDriverContract
from sim_driver_tools import PERIOD_NS, HandTime, assert_same, begin, direct_episode, make_driver, send, take

from pld_core.errors import RobotError
from pld_core.types import RobotState
from pld_ros.drivers.sim import SimDriver
from pld_sim.tabletop import TASKS

NAMES = sorted(TASKS)


class TestRealTime(RobotDriverContract):
    def make_driver(self) -> SimDriver:
        return make_driver(HandTime(nap_s=0.001))


class TestLockstep(RobotDriverContract):
    def make_driver(self) -> SimDriver:
        return SimDriver("gpu_insertion", realtime=False)


@pytest.fixture
def lockstep():
    driver = SimDriver("cube_pickup", realtime=False)
    driver.connect()
    yield driver
    driver.close()


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("realtime", [False, True])
def test_an_episode_is_the_environments_bit_for_bit(task, realtime):
    driver = make_driver(HandTime(), task) if realtime else SimDriver(task, realtime=False)
    driver.connect()
    begin(driver, 5)
    actions, steps, snapshots = direct_episode(task, 3)
    assert_same(begin(driver, 3), steps[0], snapshots[0], 0)
    for tick, action in enumerate(actions):
        assert np.array_equal(send(driver, action), action)
        assert_same(take(driver), steps[tick + 1], snapshots[tick + 1], tick + 1)
    assert steps[-1].success
    assert (driver.held_ticks, driver.late_commands, driver.idle_commands, driver.skipped_periods) == (0, 0, 0, 0)
    driver.close()


def test_in_lockstep_time_stands_still_without_commands(lockstep):
    assert begin(lockstep).tick == 0
    assert lockstep.next_state(0.0) is None
    lockstep.hold()
    assert lockstep.next_state(0.0) is None
    lockstep.command(GENTLE, 1.0)
    assert take(lockstep, 0.0).tick == 1
    assert lockstep.held_ticks == 0


def test_in_lockstep_stamps_count_periods_and_never_run_back(lockstep):
    states = [begin(lockstep)]
    for seed in (1, 2):
        for _ in range(3):
            lockstep.command(GENTLE, 1.0)
            states.append(take(lockstep))
        states.append(begin(lockstep, seed))
    first = states[0].stamp_ns
    assert [state.stamp_ns for state in states] == [first + k * PERIOD_NS for k in range(9)]
    assert [state.tick for state in states] == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_in_lockstep_a_command_answers_a_state_that_was_given(lockstep):
    lockstep.command(GENTLE, 1.0)
    assert lockstep.idle_commands == 1
    lockstep.reset(0)
    lockstep.command(GENTLE, 1.0)
    assert lockstep.late_commands == 1
    assert take(lockstep).tick == 0
    lockstep.command(GENTLE, 1.0)
    lockstep.command(-GENTLE, 1.0)
    assert lockstep.late_commands == 2
    assert take(lockstep).tick == 1


def waiting_thread(driver: SimDriver) -> tuple[threading.Thread, list[RobotState | None]]:
    """A thread that waits for one state of a driver in lockstep."""
    given: list[RobotState | None] = []
    thread = threading.Thread(target=lambda: given.append(driver.next_state(60.0)))
    thread.start()
    return thread, given


def test_a_waiting_thread_gets_what_another_one_causes(lockstep):
    begin(lockstep)
    for cause in (lambda: lockstep.command(GENTLE, 1.0), lambda: lockstep.reset(1), lockstep.close):
        thread, given = waiting_thread(lockstep)
        cause()
        thread.join(30.0)
        assert not thread.is_alive()
        assert len(given) == 1
    assert given == [None]


def test_any_thread_may_command_at_any_time():
    driver = SimDriver("cube_pickup")
    driver.connect()
    ended, faults = threading.Event(), []

    def meddle(action) -> None:
        while not ended.wait(0.005):
            try:
                action()
            except RobotError:
                continue  # stopped at the moment
            except BaseException as fault:
                faults.append(fault)
                return

    actions = (lambda: driver.command(GENTLE, 1.0), lambda: driver.reset(1), driver.hold, driver.stop, driver.recover)
    threads = [threading.Thread(target=meddle, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    states = [take(driver, 30.0) for _ in range(10)]
    ended.set()
    for thread in threads:
        thread.join(30.0)
    assert faults == []
    assert (np.diff([state.stamp_ns for state in states]) > 0).all()
    assert driver._arm._environment._shared.renderer._gl is None
    driver.close()
