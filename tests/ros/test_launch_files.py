"""The files in launch/ describe the same graphs as `pld launch`: with launch_ros where it is installed, and always
with stand-ins of its classes that only remember what they were given."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from pld_core.stations import load_robot, robot_names
from pld_ros.environment import FASTDDS_PROFILE
from pld_ros.graph import LAUNCHES
from pld_ros.launching.arguments import argument_fields
from pld_ros.launching.launcher import graph_of
from pld_ros.launching.process import NEVER, Graph, Process
from pld_ros.launching.robot_description import robot_description

LAUNCH = Path(__file__).parents[2] / "launch"
HAS_LAUNCH = importlib.util.find_spec("launch_ros") is not None
STAND_INS = {
    "launch": ["LaunchContext", "LaunchDescription"],
    "launch.actions": [
        "DeclareLaunchArgument", "EmitEvent", "ExecuteProcess", "LogInfo", "OpaqueFunction", "SetEnvironmentVariable",
        "TimerAction",
    ],
    "launch.events": ["Shutdown"],
    "launch_ros": [],
    "launch_ros.actions": ["Node"],
    "launch_ros.parameter_descriptions": ["ParameterValue"],
}  # fmt: skip


class StandIn:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, classes in STAND_INS.items():
        module = ModuleType(name)
        for each in classes:
            setattr(module, each, type(each, (StandIn,), {}))
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "ROS_DISTRO"):
        monkeypatch.delenv(name, raising=False)
    sys.modules.pop("pld_ros.launching.launch_description", None)
    yield
    sys.modules.pop("pld_ros.launching.launch_description", None)


def describe(name: str) -> Any:
    path = LAUNCH / f"{name}.launch.py"
    loader = SourceFileLoader(f"launch_file_{name}", str(path))
    module = ModuleType(loader.name)
    exec(loader.get_code(loader.name), module.__dict__)  # type: ignore[arg-type]
    return module.generate_launch_description()


def of_type(entities: list[Any], name: str) -> list[Any]:
    return [entity for entity in entities if type(entity).__name__ == name]


def started(name: str, **given: str) -> list[Any]:
    """What a launch file starts with these arguments."""
    description = describe(name)
    configurations = {
        a.args[0]: a.kwargs["default_value"] for a in of_type(description.args[0], "DeclareLaunchArgument")
    }
    (start,) = of_type(description.args[0], "OpaqueFunction")
    return start.kwargs["function"](SimpleNamespace(launch_configurations={**configurations, **given}))


def test_there_is_a_launch_file_for_every_name() -> None:
    assert sorted(path.name for path in LAUNCH.glob("*.launch.py")) == sorted(f"{n}.launch.py" for n in LAUNCHES)


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("name", list(LAUNCHES))
def test_a_launch_file_has_the_arguments_of_the_graph(name: str) -> None:
    declared = of_type(describe(name).args[0], "DeclareLaunchArgument")
    assert [a.args[0] for a in declared] == [f.name for f in argument_fields()]
    assert [a.kwargs["description"] for a in declared] == [f.metadata["help"] for f in argument_fields()]


@pytest.mark.usefixtures("stand_ins")
def test_a_launch_file_starts_the_graph_of_pld_launch(tmp_path: Path) -> None:
    given = {"run_dir": str(tmp_path), "domain": "7", "learn.steps": "300", "task": "cube_pickup", "not_ours": "x"}
    entities = started("sim_train", **given)
    graph = graph_of(["sim_train", *(f"{k}:={v}" for k, v in given.items() if k != "not_ours")])
    nodes = {node.kwargs["name"]: node.kwargs for node in of_type(entities, "Node")}
    assert list(nodes) == [process.name for process in graph.processes if process.is_node]
    for name, node in nodes.items():
        process = graph.process(name)
        assert (node["package"], node["executable"]) == (process.package, process.executable)
        (parameters,) = node["parameters"]
        assert {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()} == process.parameters
        assert node["namespace"] == "/pld"
        assert node["respawn"] is process.restart.wanted
        assert node["respawn_delay"] > 0
    (learner,) = of_type(entities, "ExecuteProcess")
    assert learner.kwargs["cmd"] == ["nice", "-n", "10", *graph.process("learner").argv()]
    environment = dict(e.args for e in of_type(entities, "SetEnvironmentVariable"))
    assert environment["FASTDDS_DEFAULT_PROFILES_FILE"] == str(FASTDDS_PROFILE)
    assert environment["ROS_DOMAIN_ID"] == "7"


@pytest.mark.usefixtures("stand_ins")
def test_what_is_never_restarted_is_not_respawned(tmp_path: Path) -> None:
    from pld_ros.launching.launch_description import _supervised

    rviz = Process("rviz", command=("true",), restart=NEVER)
    assert not _supervised(rviz, Graph("g", (rviz,), tmp_path)).kwargs["respawn"]


@pytest.mark.usefixtures("stand_ins")
def test_the_learners_end_is_the_end_and_its_failure_is_not(tmp_path: Path) -> None:
    (learner,) = of_type(started("sim_train", run_dir=str(tmp_path)), "ExecuteProcess")
    running = SimpleNamespace(is_shutdown=False)

    def ended(status: int, context: Any = running, of: Any = learner) -> list[Any]:
        return of.kwargs["on_exit"](SimpleNamespace(returncode=status), context)

    assert [type(e).__name__ for e in ended(0)] == ["EmitEvent"]
    assert [type(e).__name__ for e in ended(2)] == ["EmitEvent"], "exit status 2: its settings are wrong"
    assert ended(-9, SimpleNamespace(is_shutdown=True)) == []
    for _ in range(5):
        _, timer = ended(-9, of=learner)
        (learner,) = timer.kwargs["actions"]
    assert [type(e).__name__ for e in ended(-9, of=learner)] == ["EmitEvent"], "it gives up"


@pytest.mark.skipif(not HAS_LAUNCH, reason="launch and launch_ros come with a ROS installation")
@pytest.mark.parametrize("name", ["franka_train", "yam_train", "sim_train"])
def test_launch_ros_understands_the_file(name: str, tmp_path: Path) -> None:
    from launch import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    source = PythonLaunchDescriptionSource(str(LAUNCH / f"{name}.launch.py"))
    context = LaunchContext()
    description = source.get_launch_description(context)
    assert [a.name for a in description.get_launch_arguments()] == [f.name for f in argument_fields()]
    context.launch_configurations["run_dir"] = str(tmp_path)
    entities: list[Any] = []
    for entity in description.entities:
        entities += entity.visit(context) or []
    nodes = of_type(entities, "Node")
    wanted = [process for process in graph_of([name]).processes if process.is_node]
    assert [node.node_executable for node in nodes][: len(wanted)] == [process.executable for process in wanted]


@pytest.mark.parametrize("robot", [name for name in robot_names() if load_robot(name).urdf])
def test_the_arms_shape_is_there_for_rviz(robot: str) -> None:
    text = robot_description(load_robot(robot))
    assert '<link name="base"' in text
    meshes = [part.partition('"')[0] for part in text.split('filename="')[1:]]
    assert meshes
    assert all(mesh.startswith("file:///") and Path(mesh.removeprefix("file://")).is_file() for mesh in meshes)


def test_rviz_shows_the_topics_of_the_graph() -> None:
    shown = yaml.safe_load((LAUNCH / "pld.rviz").read_text())["Visualization Manager"]
    assert shown["Global Options"]["Fixed Frame"] == "base"
    displays = {display["Class"].split("/")[1] for display in shown["Displays"]}
    assert {"RobotModel", "MarkerArray", "Image", "TF", "Grid"} <= displays
    from pld_ros import topics

    heard = {display["Topic"]["Value"] for display in shown["Displays"] if "Topic" in display}
    wanted = {topics.camera_image("wrist"), topics.camera_image("front"), topics.MARKERS}
    assert heard == {f"/pld/{topic}" for topic in wanted}
