"""The Franka driver with the real franky, against a simulator that speaks libfranka's network protocol."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from typing import Any

import mujoco
import numpy as np
import pytest
from franka_tools import CALM, HOME_RAD, PATIENCE_S, driver_at, sideways, state, station_at, wait_for
from pulse import Pulse, attempts
from robot_driver_contract import GENTLE, RobotDriverContract

from pld_core.control import rotations
from pld_core.errors import ConfigError, RobotFaultError, RobotUnavailableError
from pld_core.stations import RobotConfig
from pld_core.types import RobotState
from pld_ros.benches.franka_simulator import FrankaSimulator
from pld_ros.drivers import make_driver
from pld_ros.drivers.franka import FrankaArm, franka
from pld_ros.drivers.real_arm import RealArm
from pld_sim.tabletop import models

pytest.importorskip("franky", reason="needs the extra 'franka'")


@pytest.fixture
def driver(calm: RealArm) -> RealArm:
    return calm


class TestFranka(RobotDriverContract):
    patience_s = PATIENCE_S

    @pytest.fixture(autouse=True)
    def _simulator(self, simulator: FrankaSimulator) -> None:
        self.host = simulator.host

    def make_driver(self) -> RealArm:
        options = {"dynamics_factor": 0.4, "connect_timeout_s": PATIENCE_S, **CALM}
        # At 5 Hz a state is "moving" for 0.3 s after a command, which a busy machine does not use up.
        station = station_at(self.host, rate_hz=5.0)
        made = make_driver(_with_options(station, options), "cube_pickup")
        assert isinstance(made, RealArm)
        return made

    def test_a_state_is_given_once(self, driver: RealArm) -> None:
        """After the reset's pause one state may follow at once; then they come at their rate."""
        self.begin(driver)
        repeated = 0
        for _ in range(20):
            self.state(driver)
            repeated += driver.next_state(0.0) is not None
        assert repeated < 5


def _with_options(station: RobotConfig, options: dict[str, Any]) -> RobotConfig:
    return dataclasses.replace(station, driver="pld_ros.drivers.franka:franka", driver_options=options)


def test_the_tool_is_where_the_twin_has_it(driver: RealArm) -> None:
    driver.reset(0)
    seen = state(driver)
    spec, arm = models.load_fr3(visual=False)
    model = spec.compile()
    data = mujoco.MjData(model)
    for name, angle in zip(arm.joints, seen.joint_positions):
        data.joint(name).qpos[0] = angle
    mujoco.mj_kinematics(model, data)
    site = data.site(models.TOOL_SITE)
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, site.xmat)
    assert seen.position == pytest.approx(site.xpos, abs=1e-3)
    assert np.linalg.norm(rotations.rotvec_between(seen.quaternion, quaternion)) < 5e-3
    # Joints 2, 4 and 6 of this pose add up to straight down.
    assert np.linalg.norm(rotations.rotvec_between(seen.quaternion, rotations.STRAIGHT_DOWN)) < 0.02
    assert seen.joint_names[:7] == arm.joints
    assert driver.arm.tool_at(seen.joint_positions[:7]) == pytest.approx(seen.position, abs=2e-3)


def test_a_stream_of_deltas_is_followed_and_ends_where_it_leads(driver: RealArm) -> None:
    driver.reset(0)
    begin = state(driver).position
    calls_s, off_m, late_s = [], [], []
    target, due = begin.copy(), time.monotonic()
    for tick in range(80):
        due = max(due + 0.05, time.monotonic() - 0.05)  # skips, never bursts
        time.sleep(max(0.0, due - time.monotonic()))
        called = time.monotonic()
        late_s.append(called - due)
        turn = 2 * np.pi * tick / 80
        sent = driver.command(np.array([0.5 * np.cos(turn), 0.5 * np.sin(turn), 0, 0, 0, 0], np.float32), -1.0)
        calls_s.append(time.monotonic() - called)
        target = target + 0.01 * sent[:3]
        off_m.append(np.linalg.norm(state(driver).position - target))
    settled_s = wait_for(lambda: bool(np.linalg.norm(state(driver).position - target) < 5e-4), "the end of the path")
    final_m = np.linalg.norm(state(driver).position - target)
    print(
        f"measured: 80 deltas of 5 mm at 20 Hz: off by {1e3 * np.median(off_m):.1f} mm (p50), "
        f"{1e3 * max(off_m):.1f} mm at most, {1e3 * final_m:.2f} mm at the end ({settled_s:.2f} s later); "
        f"calls {1e3 * np.percentile(calls_s, 99):.1f} ms (p99), ticks late {1e3 * max(late_s):.1f} ms at most"
    )
    assert max(off_m) < 0.045, "the target leads by 30 mm at most"
    assert state(driver).mode == "holding"


def test_turns_are_followed(driver: RealArm) -> None:
    driver.reset(0)
    begin = state(driver).quaternion
    turned = np.zeros(3)
    for _ in range(4):
        sent = driver.command(np.array([0, 0, 0, 0, 0, 0.5], np.float32), -1.0)
        turned += 0.08 * sent[3:6]
        time.sleep(0.05)
    assert turned[2] > 0.1
    wanted = rotations.multiply(rotations.quat_from_rotvec(turned), begin)
    wait_for(lambda: np.linalg.norm(rotations.rotvec_between(wanted, state(driver).quaternion)) < 0.01, "the turn")


def test_a_joint_is_not_led_beyond_its_margin() -> None:
    """The arm lags by up to 0.3 rad, in which the last joint would go beyond its margin, and on to its stop."""
    with Pulse() as pulse:
        for _ in attempts(pulse):
            try:
                margin, turned, limited = turned_to_its_margin()
                break
            except RobotFaultError as spoilt:  # franky makes up for lost time by a leap, so a busy machine is a fault
                if not ("no time for the arm" in str(spoilt) or "said nothing" in str(spoilt)):
                    raise
    print(f"measured: margin at {margin:.3f} rad, the joint went to {max(turned):.4f} rad")
    assert limited > 0
    assert max(turned) < margin + 0.01


def turned_to_its_margin() -> tuple[float, list[float], int]:
    """The last joint's margin, where it was on the way [rad], and how many commands the margins have shortened."""
    home = (*HOME_RAD[:6], 2.3)
    with FrankaSimulator(joints_rad=home) as simulator:
        station = dataclasses.replace(station_at(simulator.host), home_joints_rad=home)
        driver = franka(station, dynamics_factor=0.3, connect_timeout_s=PATIENCE_S)
        driver.connect()
        try:
            assert isinstance(driver.arm, FrankaArm)
            margin = float(driver.arm._margins._high[6])
            turned, due = [], time.monotonic()
            for _ in range(50):
                driver.command(np.array([0, 0, 0, 0, 0, -1], np.float32), -1.0)
                due = max(due + 0.05, time.monotonic())
                time.sleep(max(0.0, due - time.monotonic()))
                turned.append(float(sound(driver).joint_positions[6]))
            wait_for(lambda: bool(sound(driver).joint_positions[6] > margin - 0.05), "nearly all of the room")
            turned += [float(sound(driver).joint_positions[6]) for _ in range(20)]
            return margin, turned, driver.limited["joints"]
        finally:
            driver.close()


def sound(driver: RealArm) -> RobotState:
    """Raises RobotFaultError for a state that tells of a fault."""
    found = state(driver)
    if found.fault:
        raise RobotFaultError(found.fault)
    return found


def test_a_pose_that_is_reached_is_no_new_motion(driver: RealArm) -> None:
    driver.reset(0)
    assert isinstance(driver.arm, FrankaArm)
    robot = driver.arm._links()[0]
    driver.command(np.zeros(6, np.float32), 1.0)
    first = robot._goal
    driver.command(np.zeros(6, np.float32), 1.0)
    assert robot._goal is first
    driver.command(GENTLE, 1.0)
    assert robot._goal is not first


def test_a_hold_stops_the_arm(driver: RealArm) -> None:
    driver.reset(0)
    sideways(driver, 10)
    driver.hold()
    _wait_for_rest(driver)
    assert state(driver).mode == "holding"
    before = state(driver).position
    sideways(driver, 4)
    wait_for(lambda: state(driver).position[1] > before[1] + 0.01, "motion after the hold")


def test_compliant_and_back_home(simulator: FrankaSimulator) -> None:
    """The kind of signal changes twice: joints, torques, joints."""
    driver = driver_at(simulator.host, mode="impedance", **CALM)
    driver.connect()
    try:
        driver.reset(0)
        begin = state(driver).position
        sent_m = sideways(driver, 12)
        wait_for(lambda: state(driver).position[1] > begin[1] + 0.5 * sent_m[1], "the tool pulled along")
        driver.hold()
        _wait_for_rest(driver)
        sideways(driver, 2)
        driver.reset(1)
        assert state(driver).position == pytest.approx(begin, abs=5e-3)
    finally:
        driver.close()


def test_the_gripper_never_blocks(driver: RealArm) -> None:
    driver.reset(0)
    assert state(driver).gripper_width_m > 0.07
    took_s = []
    for gripper in (-1.0, 1.0, -1.0):  # the hand is still closing when it is told to open
        began = time.monotonic()
        driver.command(np.zeros(6, np.float32), gripper)
        took_s.append(time.monotonic() - began)
        time.sleep(0.05)
    closed_s = wait_for(lambda: state(driver).gripper_width_m < 0.005, "closed fingers")
    driver.command(GENTLE, 1.0)
    opened_s = wait_for(lambda: state(driver).gripper_width_m > 0.075, "open fingers")
    print(
        f"measured: gripper commands returned after {1e3 * max(took_s):.1f} ms at most; "
        f"closed after {closed_s:.2f} s, open after {opened_s:.2f} s"
    )
    assert min(took_s) < 0.1


def test_without_franky_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "franky", None)
    driver = driver_at("127.0.0.1")
    assert driver.spec().dim == 7
    with pytest.raises(RobotUnavailableError, match=r"pip install 'pld\[franka\]'"):
        driver.connect()


@pytest.mark.parametrize(
    ("options", "match"),
    [({"mode": "velocity"}, "mode"), ({"dynamics_factor": 2.0}, "dynamics_factor"), ({"model": "fr4"}, "model")],
)
def test_options_are_checked(options: dict, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        franka(station_at("127.0.0.1"), **options)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ConfigError, match="stiffness"):
        make_driver(_with_options(station_at("127.0.0.1"), {"stiffness": 3.0}), "cube_pickup")


# -- the simulator -------------------------------------------------------------------------------


def test_a_simulator_ends_with_whoever_started_it() -> None:
    code = (
        "import os; from pld_ros.benches.franka_simulator import FrankaSimulator; s = FrankaSimulator(); "
        "s.start(); print(s.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60)
    pid = int(done.stdout)
    wait_for(lambda: not _runs(pid), "the end of the simulator")


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_for_rest(driver: RealArm) -> None:
    def rests() -> bool:
        before = state(driver).position
        time.sleep(0.1)
        return bool(np.linalg.norm(state(driver).position - before) < 2e-4)

    wait_for(rests, "rest")
