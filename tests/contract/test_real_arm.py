"""The driver of all real arms, over an arm whose time and faults are in the test's hand."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
from real_arm_tools import CENTRE, PERIOD_S, STATION, IdealArm, forward, made_of, state
from robot_driver_contract import GENTLE, RobotDriverContract
from sim_driver_tools import HandTime

from pld_core.control import rotations
from pld_core.errors import RobotError, RobotFaultError
from pld_ros.drivers.real_arm import RealArm


@pytest.fixture
def time() -> HandTime:
    return HandTime()


@pytest.fixture
def arm(time: HandTime) -> IdealArm:
    return IdealArm(time)


@pytest.fixture
def driver(time: HandTime, arm: IdealArm) -> RealArm:
    made = made_of(time, arm)
    made.connect()
    return made


class TestIdealArm(RobotDriverContract):
    def make_driver(self) -> RealArm:
        time = HandTime(nap_s=0.001)
        return made_of(time, IdealArm(time))


def applied(pose: tuple[np.ndarray, np.ndarray], action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    turn = rotations.quat_from_rotvec(STATION.rotation_rad * action[3:6].astype(np.float64))
    return pose[0] + STATION.translation_m * action[:3].astype(np.float64), rotations.multiply(turn, pose[1])


def test_deltas_add_up_to_a_target_of_its_own(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    arm.follows = False  # it lags
    for _ in range(3):
        forward(driver, time, 0.5)
    assert arm.followed[0] == pytest.approx(CENTRE + [0.015, 0, 0])
    assert state(driver).proprio[7:10] == pytest.approx([0.015, 0, 0])


def test_pressing_on_something_winds_up_no_force(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    arm.follows = False
    led = CENTRE, rotations.STRAIGHT_DOWN
    for tick in range(40):
        time.now += PERIOD_S
        sent = driver.command(np.array([0.9, -0.3, 0, 0, 0, 0] if tick % 2 else [0, 0, 0, 0, 0.2, 1], np.float32), -1.0)
        led = applied(led, sent)
        assert led[0] == pytest.approx(arm.followed[0], abs=1e-7), "the answer is what became of the command"
        assert rotations.rotvec_between(led[1], arm.followed[1]) == pytest.approx(np.zeros(3), abs=1e-6)
    assert sent.dtype == np.float32
    assert arm.followed[0] == pytest.approx(CENTRE + 0.03 * np.array([0.9, -0.3, 0]) / np.hypot(0.9, 0.3), abs=1e-4)
    assert np.linalg.norm(rotations.rotvec_between(arm.followed[1], arm.quaternion)) == pytest.approx(0.3)
    assert driver.limited["lead"] > 20


def test_a_target_comes_back_to_an_arm_that_is_pushed_away(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    arm.follows = False
    forward(driver, time)
    arm.position = CENTRE - [0.05, 0, 0]
    sent = forward(driver, time, 0.0)
    assert arm.followed[0] == pytest.approx(CENTRE - [0.02, 0, 0])
    assert sent == pytest.approx([-3, 0, 0, 0, 0, 0, -1]), "from 10 mm ahead to 20 mm behind"
    assert driver.limited["lead"] == 1


def test_after_a_hold_it_starts_from_where_the_arm_is(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    arm.follows = False
    forward(driver, time)
    driver.hold()
    assert arm.calls[-1] == "halt"
    forward(driver, time, 0.5)
    assert arm.followed[0] == pytest.approx(CENTRE + [0.005, 0, 0])


def test_the_box_ends_the_way(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    for _ in range(40):
        forward(driver, time)
    assert STATION.workspace_m is not None
    assert arm.position[0] == pytest.approx(STATION.workspace_m[1][0])
    assert driver.limited["workspace"] == 20
    assert not forward(driver, time)[:6].any()


def test_commands_that_come_too_fast_are_shortened(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    for _ in range(20):  # at four times the rate
        time.now += PERIOD_S / 4
        driver.command(np.array([1, 0, 0, 0, 0, 0], np.float32), -1.0)
    assert arm.position[0] - CENTRE[0] <= 0.01 * (5 + 2) + 1e-6
    assert driver.limited["rate"] == 18


def test_a_diagonal_is_no_faster_than_the_station_allows(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    for _ in range(10):
        time.now += PERIOD_S
        sent = driver.command(np.array([1, 1, 0.5, 0, 0, 0], np.float32), -1.0)
    assert np.linalg.norm(arm.position - CENTRE) / (10 * PERIOD_S) == pytest.approx(STATION.max_speed_m_s, rel=1e-5)
    assert sent[:3] / sent[0] == pytest.approx([1, 1, 0.5])
    assert (driver.limited["speed"], driver.limited["workspace"]) == (10, 0)
    forward(driver, time)
    assert driver.limited["speed"] == 10, "along one axis it is slower"


def test_joints_near_their_end_shorten_the_way(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    arm.share = 0.25
    assert forward(driver, time) == pytest.approx([0.25, 0, 0, 0, 0, 0, -1])
    assert driver.limited["joints"] == 1
    assert arm.position == pytest.approx(CENTRE + [0.0025, 0, 0])


def test_the_gripper_is_told_when_that_changes_something(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    for gripper in (0.5, 1.0, -0.1, -1.0, 0.2):
        time.now += PERIOD_S
        driver.command(GENTLE, gripper)
    assert [call for call in arm.calls if call in ("open", "close")] == ["open", "close", "open"]


def test_silence_is_a_fault_within_its_time(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    driver.reset(0)
    forward(driver, time)
    arm.silent_since = time.now
    while state(driver).mode != "fault":
        assert time.now - arm.silent_since < 0.15
    assert "said nothing" in state(driver).fault, "it is told again and again"
    assert arm.calls[-1] == "halt"
    with pytest.raises(RobotFaultError, match=r"said nothing.*recover"):
        forward(driver, time)
    with pytest.raises(RobotFaultError):
        driver.reset(1)


def test_a_command_finds_the_silence_itself(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    forward(driver, time)
    arm.silent_since = time.now
    forward(driver, time)
    forward(driver, time)
    with pytest.raises(RobotFaultError, match="said nothing"):
        forward(driver, time)


@pytest.mark.parametrize("fault", ["reported", "broken"])
def test_a_fault_holds_until_recovered(driver: RealArm, arm: IdealArm, time: HandTime, fault: str) -> None:
    driver.reset(0)
    state(driver)
    setattr(arm, fault, "motor 3 is hot")
    assert state(driver).fault == "motor 3 is hot"
    arm.reported = arm.broken = ""
    assert state(driver).mode == "fault", "an arm that is well again does not start by itself"
    driver.stop()
    driver.recover()
    assert "recover" in arm.calls
    assert state(driver).mode == "holding"
    forward(driver, time)


LIES = {
    "joint angles": {"joints": np.array([0.0, np.nan])},
    "tool position": {"position": np.array([0.5, np.nan, 0.25])},
    "tool orientation": {"quaternion": np.full(4, np.nan)},
    "a quaternion": {"quaternion": np.zeros(4)},
    "gripper opening": {"width_m": float("inf")},
    "time of measurement": {"silent_since": float("nan")},
}


@pytest.mark.parametrize("what", LIES)
@pytest.mark.parametrize("found_by", ["a state", "a command", "a reset"])
def test_what_cannot_have_been_measured_is_a_fault_and_goes_nowhere(
    driver: RealArm, arm: IdealArm, time: HandTime, what: str, found_by: str
) -> None:
    forward(driver, time)
    before, sound = state(driver), dict(vars(arm))
    vars(arm).update(LIES[what])
    if found_by != "a state":
        with pytest.raises(RobotFaultError, match=f"the arm said .*{what}"):
            forward(driver, time) if found_by == "a command" else driver.reset(0)
    told = state(driver)
    assert told.mode == "fault"
    assert what in told.fault
    assert arm.calls[-1] == "halt"
    assert np.array_equal(told.position, before.position), "the last sound measurement"
    assert np.array_equal(told.quaternion, before.quaternion)
    assert np.array_equal(told.joint_positions, before.joint_positions)
    assert np.isfinite(told.proprio).all()
    vars(arm).update({name: sound[name] for name in LIES[what]})
    driver.recover()
    forward(driver, time)
    assert np.isfinite(arm.followed[0]).all()
    assert state(driver).fault == ""


def test_an_arm_that_lies_from_the_beginning_tells_no_state(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    arm.position = np.full(3, np.nan)
    with pytest.raises(RobotFaultError, match="the arm said"):
        driver.next_state(1.0)
    with pytest.raises(RobotFaultError, match="the arm said"):
        forward(driver, time)
    assert "follow" not in arm.calls


def test_an_arm_that_does_not_come_back_stays_in_its_fault(driver: RealArm, arm: IdealArm) -> None:
    state(driver)
    arm.broken = "no answer"
    assert state(driver).mode == "fault"
    with pytest.raises(RobotError, match="no answer"):
        driver.recover()
    assert state(driver).mode == "fault"


def test_a_stop_ends_a_reset(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    arm.on_way_home = lambda: driver.stop()
    with pytest.raises(RobotError, match="ended by a hold or an emergency stop"):
        driver.reset(0)
    assert arm.calls[-1] == "halt"
    driver.recover()
    assert state(driver).resets == 0


def test_nothing_else_is_commanded_on_the_way_home(driver: RealArm, arm: IdealArm) -> None:
    refused = []

    def command() -> None:
        with pytest.raises(RobotError, match="start pose"):
            driver.command(GENTLE, 0.0)
        refused.append(state(driver).mode)

    def from_another_thread() -> None:
        thread = threading.Thread(target=command)
        thread.start()
        thread.join()

    arm.on_way_home = from_another_thread
    driver.reset(0)
    assert refused == ["moving"]


# The tool moves a metre per radian; from joints at 0 it comes from x 0.4, y -0.2 to x 0.5, y 0.
ON_THE_WAY = ((0.44, -0.12, 0.2), (0.46, -0.08, 0.3))
AT_HOME = ((0.49, -0.01, 0.2), (0.52, 0.01, 0.3))
AT_THE_START = ((0.38, -0.23, 0.2), (0.41, -0.19, 0.3))
BEYOND = ((0.44, -0.12, 0.3), (0.46, -0.08, 0.4))


def resetting(time: HandTime, arm: IdealArm, **changes: object) -> RealArm:
    station = dataclasses.replace(STATION, **changes)
    made = RealArm(station, arm, clock=time.clock, sleep=time.sleep, time_ns=time.time_ns)
    made.connect()
    return made


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep_out_m": (BEYOND, ON_THE_WAY)}, r"comes to x 0.4.* y -0.1.* keep_out_m box \[\[0.44.*guide it by hand"),
        ({"keep_out_m": (AT_HOME,)}, r"home_joints_rad lead the tool to x 0.500.* keep_out_m box \[\[0.49.*choose"),
        ({"workspace_m": ((0.3, -0.3, 0.0), (0.49, 0.3, 0.4))}, r"x 0.500 .* outside of the workspace .*measure"),
        ({"keep_out_m": (((0.40, -0.21, 0.2), (0.6, -0.1, 0.3)),)}, r"comes to"),  # it stands at its edge, and goes in
    ],
)
def test_the_way_home_is_looked_at_before_anything_moves(
    arm: IdealArm, time: HandTime, changes: dict, words: str
) -> None:
    driver = resetting(time, arm, **changes)
    with pytest.raises(RobotError, match=f"does not go home: .*{words}.*Nothing was moved"):
        driver.reset(0)
    assert arm.calls == ["connect"]
    assert state(driver).mode == "idle", "no fault: it may be driven to where its way is free"
    assert state(driver).resets == 0
    forward(driver, time)


@pytest.mark.parametrize(
    "changes",
    [
        {"keep_out_m": (BEYOND,)},
        {"keep_out_m": (AT_THE_START,)},  # it stands within, and leaves
        {"workspace_m": ((0.45, -0.1, 0.0), (0.6, 0.3, 0.4)), "keep_out_m": (BEYOND,)},  # it stands outside of it
    ],
)
def test_a_free_way_home_is_gone(arm: IdealArm, time: HandTime, changes: dict) -> None:
    driver = resetting(time, arm, **changes)
    driver.reset(0)
    assert arm.calls == ["connect", "open", "home [0.1, 0.2]"]


def test_an_arm_that_is_gone_is_halted_in_vain_and_closed(driver: RealArm, arm: IdealArm, time: HandTime) -> None:
    forward(driver, time)
    arm.broken = "unplugged"
    driver.hold()
    driver.stop()
    driver.close()
    assert arm.calls[-1] == "disconnect"
