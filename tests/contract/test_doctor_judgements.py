"""What ``pld doctor --robot`` makes of what it has measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from franka_tools import HOME_RAD

pytest.importorskip("franky", reason="needs the extra 'franka'")
pytest.importorskip("pyrealsense2", reason="needs the extra 'realsense'")

from pld_core.control import rotations
from pld_core.errors import RobotError
from pld_core.stations import CameraConfig, load_robot
from pld_core.types import RobotState
from pld_ros.checkup import arm, cameras, machine, motion, place
from pld_ros.checkup.kinematics import named_alike

STATION = load_robot("franka_fr3")
CAMERA = CameraConfig("realsense", fps=30)


def state_at(position, tilt_rad: float = 0.0, **changes) -> RobotState:
    turn = rotations.quat_from_rotvec(np.array([tilt_rad, 0.0, 0.0]))
    quaternion = rotations.multiply(turn, rotations.STRAIGHT_DOWN)
    names = tuple(f"fr3_joint{i}" for i in range(1, 8))
    values = {"mode": "idle", **changes}
    return RobotState(0, np.zeros(13), np.array(HOME_RAD), names, np.array(position), quaternion, 0.04, **values)


def frames(rate_hz: float = 30.0, age_s: float = 0.02, without: tuple[int, ...] = (), **changes) -> cameras.Seen:
    """What a camera with these would be seen to deliver in two seconds."""
    taken = [i / rate_hz for i in range(round(2 * rate_hz)) if i not in without]
    return cameras.Seen(
        [round(1e9 * t) for t in taken], [t + age_s for t in taken], [age_s] * len(taken),
        **{"spread": 40.0, "mean": 90.0, "changes": True, **changes},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "status", "words"),
    [
        (frames(), "ok", "30.0 of 30 frames a second, 0 gaps"),
        (frames(15.0), "problem", "15.0 of 30"),
        (frames(without=(7, 8)), "warning", "1 gaps over 1.5 periods (longest 100 ms)"),
        (frames(without=(7,), unread=1), "warning", "1 frames came and were not read in time"),
        (frames(age_s=0.2), "problem", "200 ms old on arrival"),
        (frames(age_s=-0.01), "problem", "in the future"),
        (frames(spread=0.5), "problem", "shows nothing"),
        (frames(changes=False), "warning", "repeat to the last bit"),
        (cameras.Seen(fault="no new frame for 5.00 s; check its cable"), "problem", "check its cable"),
    ],
)
def test_judgement_of_a_camera(seen, status, words):
    check = cameras.judge("wrist", CAMERA, seen, 0.1)
    assert check.status == status
    assert words in check.detail
    assert check.fix or status == "ok"


@pytest.mark.parametrize(
    ("position", "tilt_rad", "status", "words"),
    [
        ((0.5, 0.0, 0.2), 0.1, "ok", "x -200 +200, y -250 +250, z -190 +300; tilted by 0.10 rad"),
        ((0.5, 0.0, 0.015), 0.0, "warning", "z -5 +485"),
        ((0.5, 0.3, 0.2), 0.0, "problem", "50 mm outside of the highest y (0.25)"),
        ((0.5, 0.0, 0.2), 0.7, "problem", "tilted by 0.70 rad, 0.60 are allowed"),
        ((0.35, 0.0, 0.05), 0.0, "problem", "within the box"),
    ],
)
def test_judgement_of_the_tool(position, tilt_rad, status, words):
    station = dataclasses.replace(STATION, keep_out_m=(((0.3, -0.1, 0.0), (0.4, 0.1, 0.1)),))
    check = place.check_tool(station, state_at(position, tilt_rad))
    assert check.status == status
    assert words in check.detail


@pytest.mark.parametrize(
    ("urdf", "words"),
    [
        ("", "not checked: the station names no urdf"),
        ("nowhere/arm.urdf", "not checked: no URDF at nowhere/arm.urdf"),
        ("no_such_package:assets/arm.urdf", "not checked: no URDF at no_such_package:assets/arm.urdf"),
        ("franky_sim:assets/none.urdf", "assets/none.urdf"),
    ],
)
def test_a_start_pose_that_cannot_be_checked_is_no_healthy_one(urdf, words):
    check = place.check_home(dataclasses.replace(STATION, urdf=urdf), state_at((0.5, 0.0, 0.2)))
    assert check is not None
    assert (check.status, check.name) == ("warning", "start pose")
    assert words in check.detail
    assert check.fix
    assert place.check_home(dataclasses.replace(STATION, urdf=urdf, home_joints_rad=()), state_at((0, 0, 0))) is None


def test_the_ends_of_a_pandas_joints_are_its_own():
    home = (0.0, 0.1, 0.0, -2.2, 0.0, 3.8, 0.785)  # joint 6: up to 3.75 rad, of an FR3 up to 4.52
    panda = dataclasses.replace(load_robot("franka_panda"), home_joints_rad=home)
    names = tuple(f"panda_joint{i}" for i in range(1, 8))
    check = place.check_home(panda, dataclasses.replace(state_at((0.5, 0.0, 0.2)), joint_names=names))
    assert check is not None
    assert check.status == "problem"
    assert "panda_joint6 at 3.80 rad is beyond its ends (-0.02 to 3.75)" in check.detail
    own = place.check_home(dataclasses.replace(STATION, home_joints_rad=home), state_at((0.5, 0.0, 0.2)))
    assert own is not None
    assert "beyond its ends" not in own.detail


@pytest.mark.parametrize(
    ("names", "known", "found"),
    [
        (["panda_joint1", "panda_joint2"], ["fr3_joint1", "fr3_joint2", "fr3_finger_joint1"], "fr3_joint1 fr3_joint2"),
        (["arm_joint1", "arm_joint2"], ["joint1", "joint2"], "joint1 joint2"),
        (["joint1", "joint2"], ["yam_joint1", "yam_joint2"], "yam_joint1 yam_joint2"),
        (["joint1", "joint2"], ["joint1", "joint2", "other_joint1", "other_joint2"], "joint1 joint2"),
        (["joint1", "joint2"], ["left_joint1", "left_joint2", "right_joint1", "right_joint2"], "joint1 joint2"),
        (["pan_joint", "lift_joint"], ["a_pan_joint", "b_lift_joint"], "pan_joint lift_joint"),
        ([], ["joint1"], ""),
    ],
)
def test_joints_whose_names_differ_in_their_prefix(names, known, found):
    assert named_alike(names, known) == found.split()


def test_judgement_of_states():
    def seen(rate_hz: float, age_s: float = 0.005) -> list[arm.Seen]:
        return [arm.Seen(i / rate_hz, age_s, state_at((0.5, 0.0, 0.2))) for i in range(50)]

    assert arm.judge_states(STATION, seen(50.0)).status == "ok"
    assert arm.judge_states(STATION, seen(12.0)).status == "problem"
    assert arm.judge_states(STATION, seen(50.0, 0.08)).status == "problem"
    late = dataclasses.replace(seen(50.0)[-1], at_s=1.1)
    assert "longest gap 140 ms" in arm.judge_states(STATION, [*seen(50.0)[:-1], late]).detail
    assert arm.judge_status(state_at((0, 0, 0), mode="fault", fault="the Franka's own stop")).status == "problem"
    assert arm.judge_status(state_at((0, 0, 0), mode="stopped")).status == "problem"


def test_judgement_of_the_clock():
    assert machine.judge_clock(0.0, 5.0, True).status == "ok"
    assert machine.judge_clock(0.0, 5.0, False).status == "warning"
    assert machine.judge_clock(0.0, 5.0, None).status == "warning"
    stepped = machine.judge_clock(-0.5, 5.0, True)
    assert stepped.status == "problem"
    assert "-500 ms" in stepped.detail


def test_priority_that_is_refused_says_which_line_to_add(monkeypatch):
    monkeypatch.setattr(machine, "_refusal", lambda priority: "Operation not permitted")
    monkeypatch.setattr(machine.getpass, "getuser", lambda: "ada")
    assert "'ada - rtprio 99'" in machine.check_priority(STATION).fix
    assert "'ada - rtprio 50' into /etc/security/limits.d/" in machine.check_priority(load_robot("yam_real_01")).fix


def test_the_square_keeps_to_the_limits():
    near = state_at((0.695, -0.245, 0.2))
    steps = motion.square(STATION, near.position)
    assert steps.sum(axis=0) == pytest.approx(np.zeros(3), abs=1e-12)
    corner = np.cumsum(steps, axis=0)
    assert corner.min(axis=0) == pytest.approx([-0.01, 0.0, 0.0])  # inwards, from wherever it begins
    assert corner.max(axis=0) == pytest.approx([0.0, 0.01, 0.0])
    assert motion.refused(STATION, near, steps) == ""
    walled = dataclasses.replace(STATION, keep_out_m=(((0.6, -0.3, 0.1), (0.69, 0.3, 0.3)),))
    assert "would leave the workspace or meet a keep_out_m box" in motion.refused(walled, near, steps)


def test_the_start_pose_by_urdf_is_where_the_vendors_model_has_it():
    from pld_ros.drivers.yam_kinematics import JOINTS, YamKinematics

    station = load_robot("yam_real_01")
    own = YamKinematics("yam", "linear_4310", 0.134, 0.05, 0.075)
    here = np.array([0.2, 1.3, 1.2, -0.9, 0.1, 0.3])
    position, quaternion = own.pose(here)
    state = RobotState(0, np.zeros(13), np.append(here, 0.05), (*JOINTS, "fingers"), position, quaternion, 0.05, "idle")
    path = place.urdf_path(station)
    assert path is not None
    found = place.Kinematics(Path(path), JOINTS).tool_at(np.array(station.home_joints_rad), state)
    assert found == pytest.approx(own.pose(np.array(station.home_joints_rad))[0], abs=1e-3)
    bent = dataclasses.replace(station, home_joints_rad=(0.0, 9.0, 1.45, -1.37, 0.0, 0.0))
    check = place.check_home(bent, state)
    assert check is not None
    assert "joint2 at 9.00 rad is beyond its ends" in check.detail


def test_a_driver_that_might_move_its_gripper_is_not_asked_to_move(monkeypatch):
    monkeypatch.setattr(motion, "WARNING_S", 0.0)

    class Foreign:
        limited: dict[str, int] = {}  # noqa: RUF012

        def next_state(self, timeout_s: float) -> RobotState:
            return state_at((0.5, 0.0, 0.2))

        def hold(self) -> None: ...

    station = dataclasses.replace(STATION, driver="their.package:Arm")
    with pytest.raises(RobotError, match="leave its gripper"):
        motion.check_motion(Foreign(), station, lambda text: None)  # type: ignore[arg-type]
