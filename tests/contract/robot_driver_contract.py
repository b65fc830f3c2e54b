"""What every robot driver must do, as a mixin.

Subclass ``RobotDriverContract`` as ``TestMine`` and let ``make_driver`` return yours, not connected.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from pld_core.errors import ContractError, RobotError
from pld_core.interfaces import RobotDriver
from pld_core.types import RobotState

CLOSES = 10  # one of which finds another thread waiting
PATIENCE_S = 60.0
MODES = ("idle", "moving", "holding", "stopped", "fault")
GENTLE = np.array([0.1, -0.2, 0.1, 0.0, 0.05, 0.0], np.float32)
BAD_COMMANDS = {
    "size": (np.zeros(7, np.float32), 0.0),
    "number": (np.float32(0.0), 0.0),
    "nan": (np.full(6, np.nan, np.float32), 0.0),
    "infinity": (np.full(6, np.inf, np.float32), 0.0),
    "huge": (np.full(6, 1e300), 0.0),
    "range": (np.full(6, 1.5, np.float32), 0.0),
    "gripper nan": (GENTLE, float("nan")),
    "gripper range": (GENTLE, -1.5),
    "gripper missing": (GENTLE, None),
}


class RobotDriverContract:
    """``proprio_dim``: size of the station's proprioception; ``patience_s``: a new state comes within this time."""

    proprio_dim = 13
    patience_s = 1.0

    def make_driver(self) -> RobotDriver:
        raise NotImplementedError

    @pytest.fixture
    def driver(self):
        driver = self.make_driver()
        driver.connect()
        yield driver
        driver.close()

    def state(self, driver: RobotDriver) -> RobotState:
        state = driver.next_state(self.patience_s)
        assert state is not None, f"no state within {self.patience_s} s"
        return state

    def begin(self, driver: RobotDriver, seed: int = 0) -> RobotState:
        """Reset, and the first state after it."""
        driver.reset(seed)
        return self.state(driver)

    def test_protocol(self):
        assert isinstance(self.make_driver(), RobotDriver)

    def test_the_specification_is_readable_at_any_time(self):
        driver = self.make_driver()
        spec = driver.spec()
        assert (spec.dim, spec.gripper) == (7, 6)
        assert spec.rate_hz > 0
        driver.connect()
        assert driver.spec() == spec
        driver.close()
        assert driver.spec() == spec

    def test_nothing_moves_while_disconnected(self):
        driver = self.make_driver()
        for attempt in (lambda: driver.command(GENTLE, 0.0), lambda: driver.reset(0), lambda: driver.next_state(0.0)):
            with pytest.raises(RobotError, match="connect"):
                attempt()

    def test_connecting_twice_is_connecting_once(self, driver):
        driver.connect()
        assert self.begin(driver).resets == 1

    def test_states_are_complete(self, driver):
        for state in (self.state(driver), self.begin(driver)):
            assert isinstance(state.stamp_ns, int)
            assert state.stamp_ns > 0
            assert state.proprio.shape == (self.proprio_dim,)
            assert state.proprio.dtype == np.float32
            assert state.joint_positions.shape == (len(state.joint_names),)
            assert state.joint_positions.dtype == np.float64
            assert len(set(state.joint_names)) == len(state.joint_names) > 0
            assert np.shape(state.position) == (3,)
            assert np.linalg.norm(state.quaternion) == pytest.approx(1.0)
            assert np.isfinite([*state.proprio, *state.joint_positions, *state.position]).all()
            assert 0 <= state.gripper_width_m < 0.3
            assert state.mode in MODES
            assert bool(state.fault) == (state.mode == "fault")

    def test_a_state_is_given_once(self, driver):
        self.begin(driver)
        assert driver.next_state(0.0) is None

    def test_stamps_increase_over_resets(self, driver):
        stamps = [self.state(driver).stamp_ns]
        for seed in range(3):
            stamps.append(self.begin(driver, seed).stamp_ns)
            for _ in range(3):
                driver.command(GENTLE, -1.0)
                stamps.append(self.state(driver).stamp_ns)
        assert (np.diff(stamps) > 0).all()

    def test_states_are_not_overwritten(self, driver):
        state = self.begin(driver)
        kept = [array.copy() for array in (state.proprio, state.joint_positions, state.position, state.quaternion)]
        driver.command(GENTLE, 1.0)
        self.state(driver)
        for array, copy in zip(
            (state.proprio, state.joint_positions, state.position, state.quaternion), kept, strict=True
        ):
            assert np.array_equal(array, copy)

    def test_a_reset_is_counted_from_its_first_state_on(self, driver):
        before = self.state(driver).resets
        assert self.begin(driver, 3).resets == before + 1
        assert self.begin(driver, 4).resets == before + 2

    def test_a_bad_seed_changes_nothing(self, driver):
        self.begin(driver)
        with pytest.raises(ContractError, match="seed"):
            driver.reset(-1)
        assert np.array_equal(driver.command(GENTLE, 0.5)[:6], GENTLE)
        assert self.state(driver).resets == 1

    def test_a_command_answers_what_was_sent(self, driver):
        self.begin(driver)
        sent = driver.command(GENTLE, 0.5)
        assert sent.shape == (7,)
        assert sent.dtype == np.float32
        assert np.array_equal(sent, [*GENTLE, np.float32(0.5)])
        assert self.state(driver).mode == "moving"

    def test_the_delta_is_not_written_to_and_not_kept(self, driver):
        self.begin(driver)
        delta = GENTLE.copy()
        delta.flags.writeable = False
        sent = driver.command(delta, 0.5)
        assert not np.shares_memory(sent, delta)

    def test_rounding_outside_the_range_is_clipped(self, driver):
        self.begin(driver)
        assert np.abs(driver.command(np.full(6, 1.0 + 5e-7), -1.0 - 5e-7)).max() == 1.0

    @pytest.mark.parametrize("fault", BAD_COMMANDS)
    def test_bad_commands_are_refused_and_nothing_is_sent(self, driver, fault):
        self.begin(driver)
        with pytest.raises(ContractError, match=r"command.*[Nn]othing was sent"):
            driver.command(*BAD_COMMANDS[fault])
        assert np.array_equal(driver.command(GENTLE, 0.5)[:6], GENTLE)

    def test_after_a_hold_the_next_command_moves(self, driver):
        self.begin(driver)
        driver.hold()
        driver.hold()
        assert np.array_equal(driver.command(GENTLE, 0.5)[:6], GENTLE)
        assert self.state(driver).mode == "moving"

    def test_a_stop_holds_until_recovered(self, driver):
        self.begin(driver)
        driver.stop()
        driver.stop()
        for attempt in (lambda: driver.command(GENTLE, 0.0), lambda: driver.reset(1)):
            with pytest.raises(RobotError, match="recover"):
                attempt()
        driver.recover()
        assert np.array_equal(driver.command(GENTLE, 0.5)[:6], GENTLE)

    def test_stop_and_hold_never_fail(self):
        driver = self.make_driver()
        driver.stop()
        driver.hold()
        driver.connect()
        with pytest.raises(RobotError, match="recover"):
            driver.reset(0)
        driver.close()
        driver.stop()
        driver.hold()

    def test_recover_without_a_stop_does_nothing(self, driver):
        self.begin(driver)
        driver.recover()
        assert np.array_equal(driver.command(GENTLE, 0.5)[:6], GENTLE)

    def test_a_close_ends_the_wait_of_another_thread(self, driver):
        """With None. Who asks only after the close is told that there is no connection: then it is tried again."""
        for _ in range(CLOSES):
            self.begin(driver)
            ended = self._closed_while_asked(driver)
            if ended is None:
                return
            assert isinstance(ended, RobotError), ended
            driver.connect()
        pytest.fail(f"after each of {CLOSES} closes: {ended!r}")

    def _closed_while_asked(self, driver: RobotDriver) -> RobotState | Exception | None:
        """What the last of another thread's calls gave: None, or the error."""
        asks, last = threading.Event(), []

        def ask() -> None:
            asks.set()
            try:
                while (state := driver.next_state(self.patience_s)) is not None:
                    last[:] = [state]
                last[:] = [None]
            except Exception as error:
                last[:] = [error]

        asking = threading.Thread(target=ask)
        asking.start()
        asks.wait()
        time.sleep(0.02)
        driver.close()
        asking.join(2 * PATIENCE_S)
        assert not asking.is_alive()
        return last[0]

    def test_close_twice_and_connect_again(self):
        driver = self.make_driver()
        driver.connect()
        self.begin(driver)
        driver.close()
        driver.close()
        with pytest.raises(RobotError, match="connect"):
            driver.command(GENTLE, 0.0)
        driver.connect()
        self.begin(driver)
        driver.close()
