"""Finding other people's tasks and robots, and saying what is missing."""

from __future__ import annotations

import importlib.metadata

import pytest

from pld_core import registry
from pld_core.errors import ConfigError, UnknownNameError
from pld_core.stations import load_robot, load_task, robot_names, task_names


@pytest.fixture
def installed(monkeypatch):
    """Pretend that entry points are installed: ``installed({"name": "module:attribute"})``."""

    def install(values, group="pld.tasks"):
        points = [importlib.metadata.EntryPoint(name, value, group) for name, value in values.items()]
        monkeypatch.setattr(
            registry.importlib.metadata,
            "entry_points",
            lambda group: [p for p in points if p.group == group],
        )

    return install


def test_the_tabletop_tasks_are_installed():
    assert {"peg_insertion", "cube_pickup", "gpu_insertion"} <= set(registry.names("tasks"))


def test_a_name_is_loaded(installed):
    installed({"mine": "json:dumps", "nested": "json:JSONEncoder.encode"})
    assert registry.names("tasks") == ["mine", "nested"]
    assert registry.load("tasks", "mine")([1]) == "[1]"
    assert registry.load("tasks", "nested").__name__ == "encode"


def test_module_and_attribute_need_no_entry_point():
    assert registry.load("policies", "math:floor")(1.5) == 1


def test_an_unknown_name_gets_a_suggestion(installed):
    installed({"peg_insertion": "json:dumps"})
    with pytest.raises(UnknownNameError, match=r"Unknown task 'peg_insert'. Did you mean 'peg_insertion'"):
        registry.load("tasks", "peg_insert")


@pytest.mark.parametrize(
    ("missing", "advice"), [("franky", r"pld\[franka\]"), ("no_such_module_xyz", "provides 'no_such_module_xyz'")]
)
def test_a_failing_import_says_what_to_install(installed, tmp_path, monkeypatch, missing, advice):
    (tmp_path / "needs_it.py").write_text(f"raise ModuleNotFoundError('No module named {missing}', name={missing!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    installed({"mine": "needs_it:make"})
    with pytest.raises(ConfigError, match=advice):
        registry.load("tasks", "mine")


def test_a_family_serves_all_its_members(installed):
    installed({"suite/*": "operator:concat", "suite/own": "json:dumps"})
    assert registry.names("tasks") == ["suite/*", "suite/own"]
    assert registry.load("tasks", "suite/3")("!") == "3!"
    assert registry.load("tasks", "suite/own")([1]) == "[1]"
    assert registry.load("tasks", "suite/*")("a", "b") == "ab"
    assert registry.knows("tasks", "suite/3")
    assert not registry.knows("tasks", "suite")
    assert not registry.knows("tasks", "suite/")
    with pytest.raises(UnknownNameError, match=r"Unknown task 'site/3'. Did you mean 'suite/\*'"):
        registry.load("tasks", "site/3")


def test_a_missing_attribute_is_named():
    with pytest.raises(UnknownNameError, match="Did you mean 'dumps'"):
        registry.load("tasks", "json:dump_s")


def test_shipped_stations_and_tasks_are_valid():
    for name in ("fr3_sim", "yam_sim_01", "yam_real_01", "franka_fr3", "franka_panda"):
        assert name in robot_names()
        robot = load_robot(name)
        assert robot.name == name
        assert robot.action_spec.rate_hz == 20
        assert {"wrist", "front"} == set(robot.cameras)
        if not robot.is_simulated:
            twin = load_robot(robot.simulated_twin)
            assert twin.is_simulated
            assert (twin.translation_m, twin.rotation_rad, twin.proprio) == (
                robot.translation_m,
                robot.rotation_rad,
                robot.proprio,
            )
    for name in ("peg_insertion", "cube_pickup", "gpu_insertion"):
        assert name in task_names()
        assert load_task(name).robot in robot_names()


MINIMAL = "driver: {driver}\nproprio: [x]\ncameras: {{}}\n"


def test_a_station_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL.format(driver="simulated"))
    assert load_robot(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("driver", "extra", "message"),
    [
        ("franka", "", "never driven without a box"),
        ("simulated", "translation_m: 0.1", "exceeds max_speed_m_s"),
        ("simulated", "rotation_rad: 0.2", r"rotation_rad \* rate_hz = 4 rad/s exceeds max_speed_rad_s = 1.6"),
        ("simulated", "rate_hz: 0", "greater than 0"),
        ("simulated", "max_speed_m_s: .inf", "max_speed_m_s of robot .* greater than 0, got inf"),
        ("simulated", "workspace_m: [[0, 0, 0], [1, .nan, 1]]", "workspace_m of robot .* must be finite numbers"),
        ("simulated", "workspace_m: [[-.inf, 0, 0], [1, 1, 1]]", "workspace_m of robot .* must be finite numbers"),
        ("simulated", "keep_out_m: [[[0, 0, 0], [1, 1, .nan]]]", "keep_out_m of robot .* must be finite numbers"),
        ("simulated", "home_joints_rad: [0.1, .nan]", "home_joints_rad of robot .* must be finite numbers"),
        ("simulated", "max_command_age_ms: -1", "max_command_age_ms of robot .* greater than 0, got -1.0"),
        ("simulated", "max_command_age_ms: .nan", "max_command_age_ms of robot .* greater than 0, got nan"),
        ("simulated", "cameras: {wrist: {driver: opencv, width: 0}}", "width of camera wrist .* greater than 0, got 0"),
        ("simulated", "cameras: {wrist: {driver: opencv, height: -1}}", "height of camera wrist .* greater than 0"),
        ("simulated", "cameras: {wrist: {driver: opencv, fps: 0}}", "fps of camera wrist .* greater than 0"),
        ("simulated", "cameras: {wrist: {driver: opencv, policy_size: 0}}", "policy_size of camera wrist"),
        ("simulated", "cameras: {wrist: {driver: opencv, max_age_ms: 0}}", "max_age_ms of camera wrist"),
        ("simulated", "cameras: {wrist: {driver: opencv, max_age_ms: .nan}}", "max_age_ms of camera wrist"),
        ("simulated", "cameras: {wrist: {driver: opencv, exposure_us: -8}}", r"exposure_us .* must be 0 \(automatic\)"),
        ("simulated", "simulated_twin: fr3_sin", "simulated_twin of robot .*'fr3_sin'. Did you mean 'fr3_sim'"),
        ("simulated", "simulated_twin: nowhere/twin.yaml", "nowhere/twin.yaml, and there is no such file"),
        ("simulated", "workspace_m: [[0, 0, 0], [1, 1, 0]]", "workspace_m"),
        ("simulated", "workspace_m: [[0, 0], [1, 1]]", "needs 3 values"),
        ("simulated", "rate: 20", "Did you mean 'rate_hz'"),
        ("simulated", "cameras: {wrist: {driver: realsense, hight: 3}}", r"cameras\.wrist\.height"),
    ],
)
def test_a_wrong_station_is_refused(tmp_path, driver, extra, message):
    path = tmp_path / "mine.yaml"
    base = MINIMAL.format(driver=driver)
    path.write_text((base.replace("cameras: {}\n", "") if "cameras" in extra else base) + extra + "\n")
    with pytest.raises(ConfigError, match=message):
        load_robot(str(path))


def test_stations_may_name_each_other_and_a_file_of_ones_own_as_their_twin(tmp_path):
    mine, other = tmp_path / "mine.yaml", tmp_path / "other.yaml"
    for path, twin in ((mine, other), (other, mine)):
        path.write_text(MINIMAL.format(driver="simulated") + f"simulated_twin: {twin}\n")
    assert load_robot(str(mine)).simulated_twin == str(other)
    assert load_robot(str(other)).simulated_twin == str(mine)


def test_a_missing_setting_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("driver: simulated\n")
    with pytest.raises(ConfigError, match="lacks the setting"):
        load_robot(str(path))


def test_a_robot_from_another_package(installed, tmp_path, monkeypatch):
    (tmp_path / "their_robot.py").write_text(
        "from pld_core.stations import RobotConfig\n"
        "def make():\n    return RobotConfig('their_arm', 'simulated', ('x',), {})\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    installed({"their_arm": "their_robot:make", "wrong": "their_robot:wrong"}, "pld.robots")
    assert "their_arm" in robot_names()
    assert load_robot("their_arm").driver == "simulated"
    with pytest.raises(ConfigError, match="returns a RobotConfig"):
        load_robot("wrong")
    with pytest.raises(UnknownNameError, match="their_arm"):
        load_robot("thier_arm")
