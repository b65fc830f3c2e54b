"""The simulated twin in real time: when states come, which tick a command drives, what happens without one."""

from __future__ import annotations

import numpy as np
import pytest
from robot_driver_contract import GENTLE
from sim_driver_tools import (
    EPOCH_NS,
    PERIOD_NS,
    PERIOD_S,
    HandTime,
    assert_same,
    begin,
    direct_episode,
    make_driver,
    send,
    take,
)

from pld_core.errors import RobotError
from pld_sim.tabletop import make_environments


@pytest.fixture
def time() -> HandTime:
    return HandTime()


@pytest.fixture
def driver(time):
    driver = make_driver(time)
    driver.connect()
    yield driver
    driver.close()


def test_states_come_when_the_clock_says_so(driver, time):
    assert take(driver).stamp_ns == EPOCH_NS  # the state at connecting, at once
    driver.reset(0)
    assert driver.next_state(0.04) is None
    assert time.now == pytest.approx(100.04)
    for k in range(1, 6):
        state = take(driver)
        assert (state.tick, state.stamp_ns) == (k - 1, EPOCH_NS + k * PERIOD_NS)
        assert time.now == pytest.approx(100.0 + k * PERIOD_S)
        time.sleep(0.03)  # whatever the reader does meanwhile


def test_a_tick_without_a_command_is_held(driver):
    actions, _, _ = direct_episode("cube_pickup", 0, limit=4)
    env = make_environments("cube_pickup", 1)[0]
    env.renders_cameras = False
    env.reset(0)
    begin(driver)
    for tick, action in enumerate(actions):
        send(driver, action)
        state = take(driver)
        assert (state.mode, state.tick) == ("moving", 2 * tick + 1)
        state = take(driver)
        assert (state.mode, state.tick) == ("holding", 2 * tick + 2)
        env.step(action)
        expected = env.step(np.array([0, 0, 0, 0, 0, 0, action[6]], np.float32)).observation
        assert np.array_equal(state.proprio, expected.proprio)
    assert driver.held_ticks == len(actions)
    env.close()


def test_the_grip_holds_before_any_command(time):
    driver = make_driver(time, "peg_insertion")
    driver.connect()
    width = begin(driver).gripper_width_m
    for _ in range(10):
        state = take(driver)
    assert state.gripper_width_m == pytest.approx(width, abs=1e-3)
    driver.close()


def test_a_second_command_in_a_period_is_ignored(driver):
    begin(driver)
    answer = driver.command(GENTLE, 1.0)
    answer[:] = 0  # is the caller's own
    assert np.array_equal(driver.command(-GENTLE, -1.0), [*GENTLE, 1.0])
    assert driver.late_commands == 1
    assert take(driver).tick == 1
    assert np.array_equal(driver.command(-GENTLE, -1.0)[:6], -GENTLE)
    assert driver.late_commands == 1


def test_a_command_drives_the_period_in_which_it_arrives(driver, time):
    begin(driver)
    time.sleep(PERIOD_S + 0.01)  # tick 0 is over, though nobody has asked for the next state yet
    driver.command(GENTLE, 1.0)
    held, moved = take(driver), take(driver)
    assert (held.tick, held.mode) == (1, "holding")
    assert (moved.tick, moved.mode) == (2, "moving")
    assert moved.stamp_ns - held.stamp_ns == PERIOD_NS
    assert driver.held_ticks == 1


def test_an_overrun_is_skipped_and_never_made_up_for(driver, time):
    first = begin(driver)
    driver.command(GENTLE, 1.0)
    time.sleep(1.02)
    late = take(driver)
    assert late.tick == 1
    assert late.stamp_ns == time.time_ns()
    assert driver.skipped_periods == 19
    assert late.stamp_ns - first.stamp_ns == 1_020_000_000
    assert driver.next_state(0.04) is None
    following = take(driver)
    assert (following.tick, following.stamp_ns) == (2, late.stamp_ns + PERIOD_NS)
    assert driver.held_ticks == 1


@pytest.mark.parametrize("ahead_ns", [10**10, -(10**10)])
@pytest.mark.parametrize("slept_s", [0.0, 1.0])
def test_stamps_follow_a_system_clock_that_is_set(driver, time, monkeypatch, ahead_ns, slept_s):
    begin(driver)
    monkeypatch.setattr(driver._periods, "_time_ns", lambda: time.time_ns() + ahead_ns)
    time.sleep(slept_s)
    seen = [take(driver) for _ in range(3)]
    assert [state.stamp_ns for state in seen] == [time.time_ns() + ahead_ns - n * PERIOD_NS for n in (2, 1, 0)]
    assert [state.tick for state in seen] == [1, 2, 3]


def test_a_success_ends_no_episode_of_the_arm(driver):
    actions, _, _ = direct_episode("cube_pickup", 0)
    begin(driver)
    for action in actions:
        send(driver, action)
        state = take(driver)
    assert state.success
    assert (state.terminated, state.truncated) == (False, False)
    send(driver, actions[-1])
    after = take(driver)
    assert (after.mode, after.tick) == ("moving", state.tick + 1)


def test_before_the_first_episode_the_arm_idles(driver):
    state = take(driver)
    held = driver.held_ticks
    for k in range(1, 4):
        assert np.array_equal(driver.command(GENTLE, 1.0)[:6], np.zeros(6))
        again = take(driver)
        assert again.mode == "idle"
        assert again.stamp_ns == state.stamp_ns + k * PERIOD_NS
        assert (again.tick, again.terminated) == (state.tick, state.terminated)
        assert np.array_equal(again.snapshot, state.snapshot)
        assert driver.idle_commands == k
    assert (driver.held_ticks, driver.late_commands) == (held, 0)
    assert begin(driver, 1).tick == 0


def test_commands_of_the_old_episode_do_not_reach_the_new_one(driver, time):
    begin(driver)
    driver.command(GENTLE, 1.0)
    driver.reset(0)
    driver.command(GENTLE, 1.0)
    assert driver.idle_commands == 1
    state = take(driver)
    _, steps, snapshots = direct_episode("cube_pickup", 0, limit=0)
    assert_same(state, steps[0], snapshots[0], 0)
    assert (state.mode, state.resets) == ("holding", 2)


def test_hold_takes_the_command_back(driver):
    begin(driver)
    driver.command(GENTLE, 1.0)
    driver.hold()
    assert take(driver).mode == "holding"
    assert driver.held_ticks == 1


def test_a_stopped_arm_holds_while_time_goes_on(driver):
    begin(driver)
    driver.command(GENTLE, 1.0)
    driver.stop()
    for tick in (1, 2):
        state = take(driver)
        assert (state.mode, state.tick) == ("stopped", tick)
        with pytest.raises(RobotError, match="recover"):
            driver.command(GENTLE, 1.0)
    driver.recover()
    driver.command(GENTLE, 1.0)
    assert take(driver).mode == "moving"
    assert driver.held_ticks == 2
