"""The driver of the YAM: i2rt's unmodified library, against simulated motors on a virtual CAN bus."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time

import numpy as np
import pytest
import yam_tools
from robot_driver_contract import RobotDriverContract
from yam_tools import CHANNEL, I2RT_WARNINGS, LATE_IS_FINE, STATION, arm_of, connected, make_driver, state, until

from pld_core.control import rotations
from pld_core.errors import ConfigError, RobotError, RobotFaultError, RobotUnavailableError
from pld_ros.benches.motor_chain import RESTING, SimulatedMotors
from pld_ros.drivers.real_arm import RealArm
from pld_ros.drivers.yam import yam
from pld_ros.drivers.yam_kinematics import YamKinematics

pytestmark = I2RT_WARNINGS
# Moves last for longer and states come more rarely, so that a busy machine sees them in time.
SLOW = dataclasses.replace(STATION, rate_hz=2.0)


@pytest.fixture(scope="module")
def motors():
    with SimulatedMotors(CHANNEL) as motors:
        yield motors


@pytest.fixture(scope="module")
def kinematics() -> YamKinematics:
    return YamKinematics("yam", "linear_4310", 0.134, 0.05, 0.075)


class TestYamDriver(RobotDriverContract):
    patience_s = yam_tools.PATIENCE_S

    @pytest.fixture(autouse=True)
    def _motors(self, motors: SimulatedMotors) -> None:
        self.motors = motors

    def make_driver(self) -> RealArm:
        options = {"gripper_limits_rad": self.motors.gripper_limits_rad, "state_rate_hz": 20.0, **LATE_IS_FINE}
        return yam(SLOW, **options)


def lissajous(seconds: float) -> np.ndarray:
    """Metres from the middle of the path, [3]: slower than 0.15 m/s."""
    angle = 2 * np.pi * seconds / 12.0
    return np.array([0.03 * np.sin(2 * angle), 0.06 * np.sin(3 * angle), 0.03 * np.sin(angle)])


def test_a_path_at_20_hz_is_followed_to_its_end(motors: SimulatedMotors) -> None:
    with connected(make_driver(motors, **LATE_IS_FINE)) as driver:
        driver.reset(0)
        middle = state(driver).position
        commanded, late_ms, call_ms, due = middle.copy(), [], [], time.monotonic()
        for tick in range(60):
            due = max(due + 0.05, time.monotonic())
            time.sleep(due - time.monotonic() if due > time.monotonic() else 0.0)
            late_ms.append(1e3 * (time.monotonic() - due))
            delta = np.zeros(6, np.float32)
            delta[:3] = np.clip((middle + lissajous(tick * 0.05) - commanded) / STATION.translation_m, -1, 1)
            began = time.perf_counter()
            sent = driver.command(delta, -1.0)
            call_ms.append(1e3 * (time.perf_counter() - began))
            commanded = commanded + STATION.translation_m * sent[:3]
        target = driver._target
        assert target is not None

        def final_mm() -> float:
            return 1e3 * float(np.linalg.norm(state(driver).position - target[0]))

        settled_mm = [np.inf]

        def has_settled() -> bool:
            settled_mm[:] = [final_mm() for _ in range(25)]  # half a second
            return max(settled_mm) < 1.0

        until(has_settled, "settled within 1 mm of the last target")
        print(
            f"measured: final error {np.median(settled_mm):.2f} mm, call p99 {np.percentile(call_ms, 99):.2f} ms, "
            f"ticks late by p99 {np.percentile(late_ms, 99):.2f} ms"
        )
        until(lambda: state(driver).gripper_width_m < 0.002, "the gripper is closed")
        assert motors.gripper_width_m < 0.002


def test_inverse_kinematics_along_a_path(kinematics: YamKinematics) -> None:
    joints = np.array(RESTING)
    middle, _ = kinematics.pose(joints)
    errors_mm, errors_rad, times_ms = [], [], []
    for tick in range(400):
        angle = 2 * np.pi * tick / 200
        position = middle + lissajous(tick * 0.05)
        turn = np.array([0.1 * np.sin(angle), 0.1 * np.cos(angle) - 0.1, 0.4 * np.sin(2 * angle)])
        quaternion = rotations.multiply(rotations.quat_from_rotvec(turn), rotations.STRAIGHT_DOWN)
        began = time.perf_counter()
        joints = kinematics.joints_for(position, quaternion, joints)
        times_ms.append(1e3 * (time.perf_counter() - began))
        reached = kinematics.pose(joints)
        errors_mm.append(1e3 * np.linalg.norm(reached[0] - position))
        errors_rad.append(np.linalg.norm(rotations.rotvec_between(reached[1], quaternion)))
    print(f"measured: IK p99 {np.percentile(times_ms, 99):.2f} ms, worst {np.max(errors_mm):.3f} mm")
    assert np.max(errors_mm) < 0.1
    assert np.max(errors_rad) < 1e-3


def test_a_pose_out_of_reach_makes_no_leap(kinematics: YamKinematics) -> None:
    start = np.array(RESTING)
    for position in ([1.2, 0.0, 0.5], [-0.5, 0.0, 0.1], [0.0, 0.0, 0.0]):
        assert np.abs(kinematics.joints_for(np.array(position), rotations.STRAIGHT_DOWN, start) - start).max() < 0.8


def test_joints_stay_clear_of_their_ends(kinematics: YamKinematics) -> None:
    joints = np.array(RESTING)
    joints[3] = -1.69297 + 0.05  # at its margin; turning the tool forwards takes it further
    turns = [np.array([0, 0, 0, 0, sign * 0.05, 0]) for sign in (-1.0, 1.0)]
    shares = sorted(kinematics.reachable(joints, kinematics.pose(joints), turn) for turn in turns)
    assert shares[0] < 0.05
    assert shares[1] == 1.0


def test_robot_and_twin_agree_on_where_the_tool_is(kinematics: YamKinematics) -> None:
    mujoco = pytest.importorskip("mujoco")
    twin = pytest.importorskip("pld_sim.tabletop.yam")
    spec, arm = twin.load_yam(False)
    model = spec.compile()
    data = mujoco.MjData(model)
    for joints in (RESTING, (0.3, 1.4, 1.5, -1.0, 0.4, -0.5)):
        data.qpos[[model.joint(name).qposadr[0] for name in arm.joints]] = joints
        mujoco.mj_kinematics(model, data)
        site, quaternion = model.site("tool").id, np.empty(4)
        mujoco.mju_mat2Quat(quaternion, data.site_xmat[site])
        position, own = kinematics.pose(np.array(joints))
        assert position == pytest.approx(data.site_xpos[site], abs=1e-5)
        assert rotations.rotvec_between(own, rotations.STRAIGHT_DOWN) == pytest.approx(
            rotations.rotvec_between(quaternion, np.array(arm.nominal_quat)), abs=1e-5
        )


def test_the_gripper_finds_its_ends_and_keeps_them_over_a_recovery(motors: SimulatedMotors) -> None:
    with connected(make_driver(motors, gripper_limits_rad=None, **LATE_IS_FINE)) as driver:
        found = arm_of(driver)._chain._limits
        assert found == pytest.approx(motors.gripper_limits_rad, abs=0.1)
        driver.reset(0)
        before = motors.gripper_width_m
        assert before > 0.08
        driver._fail("for the test")
        driver.recover()
        assert motors.gripper_width_m == pytest.approx(before, abs=0.002)
        assert arm_of(driver)._chain._limits is found


def test_home_is_gone_to_at_its_speed_and_a_hold_ends_it(motors: SimulatedMotors) -> None:
    with connected(make_driver(motors, **LATE_IS_FINE)) as driver:
        driver.reset(0)
        driver._station = dataclasses.replace(STATION, home_joints_rad=(0.9, *RESTING[1:]))
        raised = []

        def reset() -> None:
            try:
                driver.reset(1)
            except RobotError as error:
                raised.append(str(error))

        thread = threading.Thread(target=reset)
        thread.start()
        until(lambda: motors.joint_positions[0] > 0.2, "the arm is on its way")
        driver.hold()
        thread.join(yam_tools.PATIENCE_S)
        assert not thread.is_alive()
        assert "ended by a hold" in raised[0]
        rests = motors.joint_positions
        assert rests[0] < 0.8
        time.sleep(0.3)
        assert motors.joint_positions == pytest.approx(rests, abs=0.03)
        driver._station = STATION
        driver.reset(2)
        assert motors.joint_positions == pytest.approx(RESTING, abs=0.03)


def test_a_box_on_the_way_home_is_seen_by_the_arms_own_model(motors: SimulatedMotors) -> None:
    turned = (0.6, *RESTING[1:])
    with connected(make_driver(motors, **LATE_IS_FINE)) as driver:
        driver.reset(0)
        arm = arm_of(driver)
        middle = arm.tool_at(np.array([0.3, *RESTING[1:]]))
        box = (tuple(middle - 0.01), tuple(middle + 0.01))
        driver._station = dataclasses.replace(STATION, home_joints_rad=turned, keep_out_m=(box,))
        before = motors.joint_positions
        with pytest.raises(RobotError, match=r"does not go home: on the straight way .* keep_out_m box"):
            driver.reset(1)
        assert motors.joint_positions == pytest.approx(before, abs=0.01)
        driver._station = dataclasses.replace(STATION, home_joints_rad=turned)
        driver.reset(2)
        assert motors.joint_positions == pytest.approx(turned, abs=0.03)
        driver._station = STATION
        driver.reset(3)


def test_joints_that_are_no_numbers_are_halted_at_not_sent(
    motors: SimulatedMotors, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(make_driver(motors, **LATE_IS_FINE)) as driver:
        driver.reset(0)
        driver.command(np.array([0, 0.5, 0, 0, 0, 0], np.float32), 1.0)
        arm = arm_of(driver)
        joints = arm._chain.joints
        monkeypatch.setattr(arm._chain, "joints", lambda: joints() + np.array([0, 0, np.nan, 0, 0, 0, 0]))
        with pytest.raises(RobotFaultError, match="joint angles"):
            driver.command(np.array([0, 0.5, 0, 0, 0, 0], np.float32), 1.0)
        assert np.isfinite(arm._goal).all()
        monkeypatch.undo()
        assert "joint angles" in state(driver).fault


def test_closing_ends_all_threads_and_frees_the_bus(motors: SimulatedMotors) -> None:
    from can.interfaces import virtual

    before, hook = set(threading.enumerate()), threading.excepthook
    for _ in range(2):
        with connected(make_driver(motors, **LATE_IS_FINE)):
            assert len(threading.enumerate()) == len(before) + 3
        assert set(threading.enumerate()) == before
        assert len(virtual.channels[CHANNEL]) == 1
        assert threading.excepthook is hook


@pytest.mark.parametrize(("silent", "words"), [(1, ""), (10**9, ""), (10**9, "fail to communicate with the motor 3")])
def test_a_start_for_which_an_answer_came_too_late_is_tried_again(
    motors: SimulatedMotors, monkeypatch: pytest.MonkeyPatch, silent: int, words: str
) -> None:
    """silent: so many of i2rt's questions find no answer in time, though all motors have answered before; words: what
    i2rt says of that."""
    from can.interfaces import virtual
    from i2rt.motor_drivers.can_interface import CanInterface

    ask, asked = CanInterface._send_message_get_response, []

    def ask_in_vain(bus: CanInterface, *question: object, **more: object) -> object:
        asked.append(question)
        if len(asked) <= silent:
            raise AssertionError(words)
        return ask(bus, *question, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(CanInterface, "_send_message_get_response", ask_in_vain)
    before = set(threading.enumerate())
    if silent == 1:
        with connected(make_driver(motors, **LATE_IS_FINE)) as driver:
            assert not state(driver).fault
            assert len(virtual.channels[CHANNEL]) == 2
    else:
        with pytest.raises(RobotUnavailableError, match=f"did not start: {words or AssertionError.__name__}"):
            make_driver(motors, **LATE_IS_FINE).connect()
        assert len(asked) == 5
    assert len(virtual.channels[CHANNEL]) == 1
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("opened", [0, 1])
def test_an_adapter_that_is_pulled_while_the_arm_starts_is_told(
    motors: SimulatedMotors, monkeypatch: pytest.MonkeyPatch, opened: int
) -> None:
    """opened: so often i2rt still opens the bus, after all motors have answered."""
    import can

    open_bus, asked = can.interface.Bus, []

    def pulled(*where: object, **how: object) -> object:
        asked.append(where)
        if len(asked) > opened:
            raise OSError("No such device")
        return open_bus(*where, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(can.interface, "Bus", pulled)  # the motors are asked by can.Bus before
    with pytest.raises(RobotUnavailableError, match=r"did not start: .*No such device"):
        make_driver(motors, **LATE_IS_FINE).connect()


def test_an_arm_that_is_not_there_is_told_at_once() -> None:
    with SimulatedMotors("can7") as motors:
        driver = yam(dataclasses.replace(STATION, address="can7"))
        assert driver.spec().rate_hz == 20
        motors.unplugged = True
        with pytest.raises(RobotUnavailableError, match=r"Motor 1 .* does not answer"):
            driver.connect()
        motors.mend()
        motors.fail(5, 0xE)
        with pytest.raises(RobotUnavailableError, match=r"Motor 5 .* 'overload' and cannot be cleared"):
            driver.connect()


@pytest.mark.parametrize(
    ("station", "options", "message"),
    [
        ({"address": "192.168.0.1"}, {}, "address"),
        ({"home_joints_rad": (0.0,)}, {}, "home_joints_rad"),
        ({}, {"gripper_type": "hook"}, "gripper_type"),
        ({}, {"gravity_comp_factor": (1.0,)}, "gravity_comp_factor"),
    ],
)
def test_wrong_options_are_told(station: dict, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        yam(dataclasses.replace(STATION, **station), **options)


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mink", None)
    driver = yam(STATION)
    assert driver.spec() == STATION.action_spec
    with pytest.raises(RobotUnavailableError, match=r"pip install 'pld\[yam\]'"):
        driver.connect()


def test_a_station_makes_it() -> None:
    from pld_ros.drivers import make_driver as of_station

    driver = of_station(dataclasses.replace(STATION, driver="yam"), "cube_pickup")
    assert isinstance(driver, RealArm)
