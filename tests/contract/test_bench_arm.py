"""``pld bench-arm``: the real drivers along a path, against their simulators."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time

import numpy as np
import pytest

from pld_core.cli import main as cli
from pld_core.errors import RobotError, RobotUnavailableError
from pld_core.types import ActionSpec, RobotState
from pld_ros.benches.franka_simulator import FrankaSimulator
from pld_ros.benches.lissajous import SETTLING_S, SIZE_M, SPEED_M_S, drive, path

ASKED = {"ticks", "missed", "call_ms_p99", "track_mm_p50", "final_mm"}
FINAL_MM = {"franka": 0.5, "yam": 1.0}


def test_the_path_keeps_to_its_speed_and_size():
    times = np.linspace(0, 60, 60_001)
    points = np.array([path(t) for t in times])
    speeds = np.linalg.norm(np.diff(points, axis=0), axis=1) / np.diff(times)
    assert speeds.max() == pytest.approx(SPEED_M_S, rel=1e-3)
    assert np.abs(points).max(axis=0) == pytest.approx(SIZE_M, rel=1e-3)
    assert not path(0.0).any()


class SlowArm:
    """Stands in for a driver: every ``every``-th command takes ``blocks_s``, on a clock of its own."""

    def __init__(self, every: int = 0, blocks_s: float = 0.0) -> None:
        self.now_s, self.fault, self.commands = 0.0, "", []
        self.told = threading.Event()  # the fault
        self._every, self._blocks_s = every, blocks_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def spec(self) -> ActionSpec:
        return ActionSpec()

    def reset(self, seed: int) -> None: ...

    def next_state(self, timeout_s: float) -> RobotState:
        time.sleep(0.001)
        if self.fault:
            self.told.set()
        pose = np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0])
        return RobotState(0, np.zeros(13), np.zeros(7), (), *pose, 0.08, "idle", self.fault)

    def command(self, delta: np.ndarray, gripper: float) -> np.ndarray:
        self.commands.append(self.now_s)
        if self._every and len(self.commands) % self._every == 0:
            self.now_s += self._blocks_s
        return np.append(delta, np.float32(gripper))


def test_what_a_driver_overruns_is_late_and_makes_no_burst():
    arm = SlowArm(every=5, blocks_s=0.2)
    found = drive(arm, 1.05, clock=lambda: arm.now_s, sleep=arm.sleep)  # type: ignore[arg-type]
    assert found["ticks"] == 21
    assert found["missed"] == 4
    assert found["late_ms_max"] == pytest.approx(150.0)
    assert found["call_ms_max"] == pytest.approx(200.0)
    apart = np.diff(arm.commands)
    assert apart == pytest.approx([0.2 if (tick + 1) % 5 == 0 else 0.05 for tick in range(20)])


def test_a_driver_in_time_misses_nothing():
    arm = SlowArm(every=5, blocks_s=0.049)
    found = drive(arm, 1.0, clock=lambda: arm.now_s, sleep=arm.sleep)  # type: ignore[arg-type]
    assert (found["missed"], found["late_ms_max"]) == (0, pytest.approx(0.0, abs=1e-6))


def test_an_arm_that_dies_after_its_last_command_is_no_result():
    arm = SlowArm()

    def sleep(seconds: float) -> None:
        arm.sleep(seconds)
        if seconds == SETTLING_S:
            arm.fault = "its power has failed"
            assert arm.told.wait(60.0)

    with pytest.raises(RobotError, match="its power has failed"):
        drive(arm, 1.0, clock=lambda: arm.now_s, sleep=sleep)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*bustype.*:DeprecationWarning")  # i2rt opens its bus with a renamed keyword
@pytest.mark.parametrize("arm", ["franka", "yam"])
def test_an_arm_follows_and_ends_where_it_was_sent(arm, capfd):
    assert cli.main(["bench-arm", arm, "--seconds", "3", "--json"]) == 0
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    found = json.loads(line)
    assert set(found) >= ASKED
    assert found["ticks"] == 60
    assert ("ik_ms_p99" in found) == (arm == "yam")
    assert found["final_mm"] <= FINAL_MM[arm]


@pytest.mark.parametrize(
    ("arguments", "complaint"), [(["panda"], "franka"), (["yam", "--seconds", "0"], "from 1 on"), (["yam", "x"], "x")]
)
def test_what_cannot_be_run_is_refused(arguments, complaint, capsys):
    assert cli.main(["bench-arm", *arguments]) == cli.EXIT_ERROR
    assert complaint in capsys.readouterr().err


def test_without_its_package_the_yam_says_what_to_install(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "i2rt"] + ["i2rt"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "pld_ros.benches.motor_chain", raising=False)
    assert cli.main(["bench-arm", "yam", "--seconds", "1"]) == cli.EXIT_ERROR
    said = capsys.readouterr().err
    assert said.startswith("error: The simulator of yam cannot be loaded: ")
    assert "pip install 'pld[yam]'" in said
    assert said.count("\n") == 1


def test_a_simulator_that_ends_by_itself_is_told_at_once(capfd):
    simulator = FrankaSimulator(joints_rad=(math.nan,) * 7)
    began = time.monotonic()
    with pytest.raises(RobotUnavailableError, match="ended with status 2 before it had started: what it said is above"):
        simulator.start(timeout_s=3000.0)
    assert time.monotonic() - began < 1000.0
    assert "--joints must be finite" in capfd.readouterr().err


def test_a_simulator_that_takes_too_long_is_ended():
    simulator = FrankaSimulator()
    with pytest.raises(RobotUnavailableError, match="did not start within 0 s"):
        simulator.start(timeout_s=0.0)
    with pytest.raises(RobotUnavailableError, match="not running"):
        _ = simulator.pid


def test_a_simulator_gets_no_interruption_from_the_terminal():
    with FrankaSimulator() as simulator:
        assert os.getsid(simulator.pid) == simulator.pid != os.getsid(0)
