"""The node graph for `ros2 launch`; every file in launch/ calls `describe_launch` with its name.

Needs launch and launch_ros, which come with a ROS installation; `pld launch` does without.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription  # type: ignore[attr-defined]  # not the folder launch/
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    SetEnvironmentVariable,
    TimerAction,
)
from launch.events import Shutdown
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from pld_core.config import TrainConfig
from pld_core.stations import load_robot
from pld_core.strict import known_keys
from pld_ros.environment import ros_environment
from pld_ros.graph import find_launch
from pld_ros.launching.arguments import argument_fields, arguments_from, shown
from pld_ros.launching.process import Graph, Process
from pld_ros.launching.robot_description import robot_description


def describe_launch(name: str) -> LaunchDescription:
    """The launch description of one of `pld launch`'s names, with the same arguments."""
    defaults = find_launch(name).defaults
    arguments = [
        DeclareLaunchArgument(
            field.name, default_value=shown(defaults.get(field.name, field.default)), description=field.metadata["help"]
        )
        for field in argument_fields()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=lambda context: _start(name, context))])


def graph_from(name: str, configurations: Mapping[str, str]) -> Graph:
    """The graph of a launch name and of launch configurations, of which others than ours are left alone."""
    ours = {field.name for field in argument_fields()} | set(known_keys(TrainConfig))
    pairs = {key: str(value) for key, value in configurations.items() if key in ours}
    chosen = find_launch(name)
    return chosen.build(name, arguments_from(pairs, chosen.defaults))


def _start(name: str, context: LaunchContext) -> list[Any]:
    graph = graph_from(name, context.launch_configurations)
    (graph.run_dir / "logs").mkdir(parents=True, exist_ok=True)
    return [
        *_environment(graph),
        *(_main(p) if p.name == graph.main else _supervised(p, graph) for p in graph.processes),
        *_state_publisher(graph),
    ]


def _environment(graph: Graph) -> list[Any]:
    wanted = ros_environment(graph.domain)
    return [SetEnvironmentVariable(k, v) for k, v in wanted.items() if os.environ.get(k) != v]


def _supervised(process: Process, graph: Graph) -> Any:
    """A node, or another program that runs beside them; launch itself starts it again.

    Launch knows neither back-off nor exit statuses after which that is in vain, such as the 2 of a wrong setting:
    such a node starts over and over, with this pause and its error in the log, until somebody stops the launch.
    """
    more: dict[str, Any] = {
        "additional_env": dict(process.environment),
        "respawn": process.restart.wanted,
        "respawn_delay": process.restart.first_delay_s * 4,
        "output": "both",
        "sigterm_timeout": str(process.patience_s),
    }
    if not process.is_node:
        return ExecuteProcess(cmd=list(process.command), name=process.name, **more)
    parameters = {key: list(v) if isinstance(v, tuple) else v for key, v in process.parameters.items()}
    return Node(
        package=process.package,
        executable=process.executable,
        name=process.name,
        namespace=graph.namespace,
        parameters=[parameters],
        remappings=list(process.remappings.items()),
        **more,
    )


def _main(process: Process, deaths: int = 0) -> Any:
    """The process whose end ends everything; after a failure it starts again, as under `pld launch`."""
    restart = process.restart

    def ended(event: Any, context: LaunchContext) -> list[Any]:
        if context.is_shutdown:
            return []
        said = f"{process.name} ended with exit status {event.returncode}"
        again = restart.wanted and event.returncode not in restart.hopeless and deaths + 1 < restart.quick_deaths
        if event.returncode == 0 or not again:
            return [EmitEvent(event=Shutdown(reason=said))]
        delay = restart.delay_s(deaths + 1)
        return [
            LogInfo(msg=f"{said}; it starts again in {delay:.1f} s"),
            TimerAction(period=delay, actions=[_main(process, deaths + 1)]),
        ]

    nice = ["nice", "-n", str(process.nice)] if process.nice else []
    return ExecuteProcess(
        cmd=[*nice, *process.argv()],
        name=process.name,
        additional_env=dict(process.environment),
        output="both",
        sigterm_timeout=str(process.patience_s),
        on_exit=ended,
    )


def _state_publisher(graph: Graph) -> list[Any]:
    """robot_state_publisher, where it is installed and the station has a URDF."""
    try:
        get_package_prefix("robot_state_publisher")
    except PackageNotFoundError:
        return [LogInfo(msg="robot_state_publisher is not installed, so RViz shows markers but no arm.")]
    robots = [process.parameters["robot"] for process in graph.processes if "robot" in process.parameters]
    text = robot_description(load_robot(str(robots[0])))
    if not text:
        return [LogInfo(msg=f"Station {Path(str(robots[0])).stem} has no urdf, so RViz shows no arm.")]
    return [
        Node(
            package="robot_state_publisher",
            executable="robot_state_publisher",
            namespace=graph.namespace,
            parameters=[{"robot_description": ParameterValue(text, value_type=str)}],
        )
    ]
