"""``pld doctor --robot``: the real drivers, against simulated arms and a recorded camera."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator

import pytest
import yaml
from franka_tools import HOME_RAD
from yam_tools import I2RT_WARNINGS

pytest.importorskip("franky", reason="needs the extra 'franka'")
pytest.importorskip("pyrealsense2", reason="needs the extra 'realsense'")

from pld_core.cli import main as cli
from pld_core.config import config_root
from pld_core.stations import RobotConfig, load_robot
from pld_ros.benches.franka_simulator import FrankaSimulator
from pld_ros.benches.motor_chain import SimulatedMotors
from pld_ros.benches.recordings import record_realsense, steady
from pld_ros.checkup import arm, cameras, command, motion
from pld_ros.checkup.interrupts import Interrupts
from pld_ros.drivers import make_driver
from pld_ros.drivers.franka import FrankaArm
from pld_ros.drivers.real_arm import RealArm

pytestmark = I2RT_WARNINGS
HEIGHT, WIDTH, FPS = 120, 160, 10
# A machine with other work is no fault of the arm; how soon a real one is found is measured elsewhere.
CALM = {"max_state_age_ms": 5000.0}
OF_THE_MACHINE = ("real-time priority", "clock")  # these say what they find where the tests run
OF_ITS_LOAD = ("states", "camera wrist")  # these may warn there


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("doctor") / "steady.db3"
    return str(record_realsense(path, steady(3.0, FPS, HEIGHT, WIDTH), FPS))


@pytest.fixture(scope="module")
def simulator() -> Iterator[FrankaSimulator]:
    with FrankaSimulator(joints_rad=HOME_RAD) as started:
        yield started


@pytest.fixture
def brief(monkeypatch) -> None:
    """Less than a second of everything, no time to step back, and patience with a busy machine."""
    monkeypatch.setattr(command, "SECONDS", 0.8)
    monkeypatch.setattr(cameras, "RATE_SHORT", 0.3)
    monkeypatch.setattr(motion, "SIDE_S", 0.5)
    monkeypatch.setattr(motion, "WARNING_S", 0.0)
    monkeypatch.setattr(motion, "SETTLING_S", 20.0)  # at most: a simulator on a busy machine is slow


@pytest.fixture
def write(tmp_path, recording, brief):
    """A station's file like a shipped one, with one recorded camera and changes; its path."""

    def written(like: str, options: dict | None = None, **changes) -> str:
        values = yaml.safe_load((config_root() / "robots" / f"{like}.yaml").read_text())
        camera = {"driver": "realsense", "recording": recording, "width": WIDTH, "height": HEIGHT, "fps": FPS}
        values["cameras"] = {"wrist": {**camera, "max_age_ms": 5000}}
        values["driver_options"] = {**values.get("driver_options", {}), **CALM, **(options or {})}
        path = tmp_path / f"{like}.yaml"
        path.write_text(yaml.safe_dump({**values, **changes}))
        return str(path)

    return written


def doctor(capsys, *arguments: str) -> tuple[int, dict[str, dict], str]:
    """Exit status, checks by name, and what was said on the way."""
    status = cli.main(["doctor", "--robot", *arguments, "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["ok"] == (status == 0)
    assert all(set(check) == {"name", "status", "detail", "fix"} for check in found["checks"])
    assert all(check["fix"] for check in found["checks"] if check["status"] != "ok")
    return status, {check["name"]: check for check in found["checks"]}, said.err


def assert_well(status: int, checks: dict[str, dict]) -> None:
    assert status == 0, checks
    for name, check in checks.items():
        if name not in (*OF_THE_MACHINE, *OF_ITS_LOAD):
            assert check["status"] == "ok", check


# -- whole stations ------------------------------------------------------------------------------


def test_a_healthy_franka(simulator, write, capsys):
    status, checks, said = doctor(capsys, write("franka_fr3", address=simulator.host))
    assert_well(status, checks)
    assert list(checks) == [
        "station", "real-time priority", "camera wrist", "connection", "states", "stops and faults", "workspace",
        "start pose", "clock",
    ]  # fmt: skip
    assert "inside" in checks["workspace"]["detail"]
    assert "inside" in checks["start pose"]["detail"]
    assert "frames a second" in checks["camera wrist"]["detail"]
    assert "MOVES" not in said  # without --confirm-motion
    assert "motion" not in checks


def test_a_panda_is_checked_against_its_own_joints(simulator, write, capsys):
    """It ships with the URDF of an FR3, whose joints have other names and other ends."""
    status, checks, _ = doctor(capsys, write("franka_panda", address=simulator.host, cameras={}))
    assert_well(status, checks)
    assert "inside" in checks["start pose"]["detail"]


def test_a_franka_drives_the_square(simulator, write, capsys, monkeypatch):
    station = write("franka_fr3", address=simulator.host, cameras={})
    hands = []  # what the hand was told, when the arm is let go of
    close = FrankaArm.close
    monkeypatch.setattr(FrankaArm, "close", lambda self: (hands.append(self._links()[1]._wanted), close(self)))
    status, checks, said = doctor(capsys, station, "--confirm-motion")
    assert "MOVES" in said
    assert_well(status, {name: check for name, check in checks.items() if name != "motion"})
    assert_drove(checks["motion"])
    assert hands == [None]


def test_a_yam_drives_the_square_with_its_gripper_half_open(write, capsys):
    station = load_robot("yam_real_01")
    with SimulatedMotors(station.address, joints=station.home_joints_rad, width_m=0.05) as motors:
        limits = [float(limit) for limit in motors.gripper_limits_rad]
        path = write("yam_real_01", {"gripper_limits_rad": limits})
        status, checks, said = doctor(capsys, path, "--confirm-motion")
        assert motors.gripper_width_m == pytest.approx(0.05, abs=0.001)
    assert "support it" in said
    assert "both of its ends" not in said
    assert_well(status, {name: check for name, check in checks.items() if name != "motion"})
    assert_drove(checks["motion"])


def assert_drove(check: dict) -> None:
    """A busy machine may make it a warning: then the tool trails further on its way. It comes back all the same."""
    assert check["status"] in ("ok", "warning"), check
    numbers = re.findall(r"([\d.]+) mm", check["detail"])  # far in x, far in y, off on the way, off at the end
    assert min(map(float, numbers[:2])) > 8.0
    assert float(numbers[3]) < 1.0
    assert "gripper unchanged" in check["detail"]


def test_what_is_wrong_is_told_all_at_once_and_nothing_moves(simulator, write, capsys):
    """The tool is outside, the camera is not there; the arm is well and would be able to move."""
    camera = {"driver": "realsense", "serial": "938422070123"}
    box = [[0.30, -0.25, 0.40], [0.70, 0.25, 0.50]]
    station = write("franka_fr3", address=simulator.host, cameras={"wrist": camera}, workspace_m=box)
    status, checks, said = doctor(capsys, station, "--confirm-motion")
    assert status == 1
    assert checks["connection"]["status"] == "ok"
    assert checks["workspace"]["status"] == checks["start pose"]["status"] == "problem"
    assert "outside of the lowest z" in checks["workspace"]["detail"]
    assert checks["camera wrist"]["status"] == "problem"
    assert "938422070123" in checks["camera wrist"]["fix"]
    assert "connected: " in checks["camera wrist"]["fix"]
    assert "nothing moved: camera wrist, workspace, start pose" in checks["motion"]["detail"]
    assert "MOVES" not in said


def test_nobody_answers(write, capsys):
    status, checks, _ = doctor(capsys, write("franka_fr3", address="127.9.9.9", cameras={}))
    assert status == 1
    assert checks["connection"]["status"] == "problem"
    assert "127.9.9.9" in checks["connection"]["detail"]
    assert "ping -c 3 127.9.9.9" in checks["connection"]["fix"]
    assert "states" not in checks


def test_no_motor_answers_and_what_the_arm_does_is_said_before(write, capsys):
    with SimulatedMotors("can0") as motors:
        motors.unplugged = True
        status, checks, said = doctor(capsys, write("yam_real_01", cameras={}))
    assert status == 1
    assert "Motor 1" in checks["connection"]["detail"]
    assert "can0" in checks["connection"]["fix"]
    assert "moves to both of its ends" in said


def test_a_simulated_station(brief, capsys):
    status, checks, _ = doctor(capsys, "fr3_sim", "--confirm-motion")
    assert_well(status, checks)
    assert "simulated, 64x64" in checks["camera front"]["detail"]
    assert "10.0 mm in x" in checks["motion"]["detail"]


def test_a_simulated_station_without_a_task(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text((config_root() / "robots" / "fr3_sim.yaml").read_text())
    status, checks, _ = doctor(capsys, str(path))
    assert status == 1
    assert "No task is made for mine" in checks["driver"]["detail"]


@pytest.mark.parametrize(("name", "complaint"), [("fr3_sin", "fr3_sim"), ("nowhere.yaml", "Cannot read")])
def test_a_station_that_is_not_there(name, complaint, capsys):
    status, checks, _ = doctor(capsys, name)
    assert status == 1
    assert complaint in checks["station"]["detail"]


def test_arguments(capsys):
    assert cli.main(["doctor", "--help"]) == 0
    assert "--confirm-motion" in capsys.readouterr().out
    assert cli.main(["doctor", "--confirm-motion"]) == cli.EXIT_ERROR
    assert "--robot NAME" in capsys.readouterr().err
    assert cli.main(["doctor", "--robot", "fr3_sim", "--jsn"]) == cli.EXIT_ERROR
    assert "--json" in capsys.readouterr().err


def test_the_report_for_people(write, capsys):
    assert cli.main(["doctor", f"--robot={write('franka_fr3', address='', cameras={})}"]) == 1
    said = capsys.readouterr().out
    assert "✗ connection " in said
    assert "→ enter the arm's address" in said
    assert "Fix what is marked" in said


def test_an_interruption_of_the_motion_holds_and_lets_go(simulator, write, capsys, monkeypatch):
    calls = []

    class Watched(RealArm):
        def command(self, delta, gripper):
            sent = super().command(delta, gripper)
            calls.append("command")
            if calls.count("command") == 3:
                signal.raise_signal(signal.SIGINT)
            return sent

        def hold(self):
            calls.append("hold")
            super().hold()

        def close(self):
            calls.append("close")
            super().close()

    def driver_of(station: RobotConfig) -> RealArm:
        driver = make_driver(station, "")
        driver.__class__ = Watched
        return driver  # type: ignore[return-value]

    monkeypatch.setattr(arm, "driver_of", driver_of)
    status = cli.main(
        ["doctor", "--robot", write("franka_fr3", address=simulator.host, cameras={}), "--confirm-motion"]
    )
    assert status == 130
    assert "told to hold" in capsys.readouterr().err
    assert calls == ["command"] * 3 + ["hold", "hold", "close"]


def interrupted(interrupts: Interrupts, done: list[str]) -> None:
    with interrupts.held_back():
        signal.raise_signal(signal.SIGTERM)
        done.append("the rest")


def test_interruptions_wait_for_what_must_not_be_cut_short():
    done: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            interrupted(interrupts, done)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        interrupts.raise_what_came()  # nothing is left
    assert done == ["the rest"]
    assert signal.getsignal(signal.SIGTERM) == before
