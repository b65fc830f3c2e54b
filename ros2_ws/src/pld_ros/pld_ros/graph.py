"""The node graph of a station; `pld launch` and `ros2 launch` both start what is described here.

Every builder takes the launch's name and its `GraphArguments` and returns a `Graph`. Nothing is
started or connected, so that a graph can be looked at (``pld launch NAME --dry-run``) and tested.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pld_core.config import config_root
from pld_core.errors import ConfigError, UnknownNameError
from pld_core.runlog import read_config
from pld_core.stations import RobotConfig, load_robot, load_task
from pld_ros.launching.arguments import GraphArguments
from pld_ros.launching.process import NEVER, NODES_PACKAGE, ON_FAILURE, Graph, Parameter, Process

LEARNER_NICE = 10  # it gives way to whatever keeps the arm's rhythm
CHECKPOINT_S = 20.0  # that it may take to save what it has learnt when it is told to stop
STOP_ALONE = ("controller", "robot")  # the one before all other nodes, the other after them
DEFAULT_TASK = "peg_insertion"
DEFAULT_REWARD = "binary"
LABEL_WINDOW_S = 5.0  # in which an operator at a real arm may still overrule the reward


@dataclass(frozen=True)
class Station:
    """The robot and the task of a graph, as nodes are told them (names, or absolute paths)."""

    robot: str
    task: str
    config: RobotConfig

    @property
    def is_real(self) -> bool:
        return not self.config.is_simulated


def train_graph(name: str, arguments: GraphArguments) -> Graph:
    """Harvest, learn, probe, distill and evaluate on a station: all nodes, and the learner as `pld train`."""
    station = station_of(arguments)
    stem = Path(station.task).stem
    run_dir = Path(arguments.run_dir or f"runs/{name}-{stem}-seed{arguments.seed}").absolute()
    command = (
        *_pld("train"), "--task", station.task, "--robot", station.robot, "--seed", str(arguments.seed),
        "--name", run_dir.name, "--runs_dir", str(run_dir.parent), *_policy_flags(arguments), *_link_flags(arguments),
        *training_flags(arguments.training),
    )  # fmt: skip
    return _station_graph(name, arguments, station, run_dir, Process("learner", command=command, **_AS_LEARNER))


def eval_graph(name: str, arguments: GraphArguments) -> Graph:
    """Evaluate the policies of a finished or running run on a station."""
    if not arguments.run:
        raise ConfigError("eval needs the folder of a run: run:=runs/latest")
    trained = read_config(Path(arguments.run).resolve())
    station = station_of(arguments, trained.task, trained.robot)
    run_dir = Path(arguments.run_dir or Path(arguments.run).resolve()).absolute()
    arguments = dataclasses.replace(arguments, reward=arguments.reward or trained.reward)
    robot = ("--robot", station.robot) if station.robot != trained.robot else ()
    task = ("--task", station.task) if arguments.task else ()
    command = (
        *_pld("eval"), "--run", arguments.run, *task, *robot, *_link_flags(arguments),
        *training_flags(arguments.training),
    )  # fmt: skip
    return _station_graph(name, arguments, station, run_dir, Process("evaluation", command=command, **_AS_LEARNER))


def replay_graph(name: str, arguments: GraphArguments) -> Graph:
    """Show a recorded episode: its messages at their pace, and the monitor's markers for RViz."""
    if not arguments.bag:
        raise ConfigError("replay needs the folder of a recorded episode: bag:=runs/<name>/bags/<episode>")
    station = station_of(arguments, DEFAULT_TASK)
    run_dir = Path(arguments.run_dir or f"runs/{name}").absolute()
    common = _common(arguments, station, run_dir)
    bag = {"bag": str(Path(arguments.bag).absolute()), "rate": arguments.rate, "loop": arguments.loop}
    player = _node("bag_player", {**common, **bag}, restart=NEVER)
    processes = (_node("monitor", common), *_rviz(arguments), player)
    return Graph(name, processes, run_dir, arguments.domain_id, main=player.name)


def station_of(arguments: GraphArguments, task: str = DEFAULT_TASK, robot: str = "") -> Station:
    """Robot and task of the arguments, or those given here; the simulated twin with ``sim``.

    Raises ConfigError where the task is made for another robot, or a real arm is asked for lockstep.
    """
    task = _absolute(arguments.task or task)
    wanted = load_task(task).robot
    robot = _absolute(arguments.robot or robot or wanted)
    station = load_robot(robot)
    if arguments.sim and not station.is_simulated:
        if not station.simulated_twin:
            raise ConfigError(f"Station {robot} has no simulated_twin in its file, so sim:=true is not possible.")
        robot, station = station.simulated_twin, load_robot(station.simulated_twin)
        if not station.is_simulated:  # sim:=true moves no arm
            raise ConfigError(
                f"{robot} is named as a simulated_twin, but its driver is {station.driver}. Name another."
            )
    if wanted not in (station.name, station.simulated_twin):
        raise ConfigError(f"Task {task!r} is made for robot {wanted!r}, not for {robot!r}. Give another task:=.")
    if not station.is_simulated and not arguments.realtime:
        raise ConfigError(f"{robot} is a real arm: realtime:=false is for simulated ones. Add sim:=true.")
    return Station(robot, task, station)


def training_flags(training: Mapping[str, str]) -> tuple[str, ...]:
    """``{"learn.steps": "2000", "wandb": "true"}`` as `pld train` takes it."""
    flags: list[str] = []
    for key, text in training.items():
        section, dot, leaf = key.rpartition(".")
        if text.lower() in ("true", "false"):
            flags.append(f"--{section}{dot}{'' if text.lower() == 'true' else 'no_'}{leaf}")
        else:
            flags += [f"--{key}", text]
    return tuple(flags)


def _station_graph(name: str, arguments: GraphArguments, station: Station, run_dir: Path, learner: Process) -> Graph:
    """All nodes of a station and ``learner``, whose end ends the graph.

    They are stopped in the opposite order: the controller, which ends the episode and with it the arm's motion,
    the learner, which may take a while, all others at once, and the arm.
    """
    *nodes, controller = [
        dataclasses.replace(node, stops_with_others=node.name not in STOP_ALONE)
        for node in _nodes(arguments, station, _common(arguments, station, run_dir))
    ]
    mains = (learner,) if arguments.learner else ()
    main = learner.name if arguments.learner else ""
    processes = (*nodes, *_rviz(arguments), *mains, controller)
    return Graph(name, processes, run_dir, arguments.domain_id, main=main)


def _nodes(arguments: GraphArguments, station: Station, common: Mapping[str, Parameter]) -> list[Process]:
    by_operator = arguments.wait_for_operator if arguments.wait_for_operator is not None else station.is_real
    controller: dict[str, Parameter] = {
        **common, "wait_for_operator": by_operator, "ready_timeout_s": arguments.ready_timeout_s,
    }  # fmt: skip
    if arguments.max_age_ms is not None:
        controller["max_age_ms"] = arguments.max_age_ms
    window_s = LABEL_WINDOW_S * station.is_real if arguments.label_window_s is None else arguments.label_window_s
    logger = {**common, "bags": arguments.bags, "label_window_s": float(window_s)}
    operator = {**common, "front_end": arguments.front_end}
    rhythm: dict[str, Any] = {
        "real_time": arguments.priority and arguments.realtime,
        "environment": {"PLD_REAL_TIME": str(int(arguments.priority and arguments.realtime))},
    }
    return [  # the controller last
        _node("robot", common, **rhythm),
        *_cameras(station, common, rhythm),
        _node("vla_server", {**common, "policy": arguments.policy, "prefetch": arguments.prefetch}, **rhythm),
        _node("reward", {**common, "reward": arguments.reward or DEFAULT_REWARD}, **rhythm),
        _node("replay_logger", logger),
        _node("operator", operator, terminal=arguments.front_end == "keyboard", **rhythm),
        _node("monitor", common, essential=False),
        _node("controller", controller, **rhythm),
    ]


def _cameras(station: Station, common: Mapping[str, Parameter], rhythm: Mapping[str, Any]) -> list[Process]:
    """One process for all simulated cameras, which share their scene; one for each real one."""
    cameras = station.config.cameras
    simulated = tuple(name for name, camera in cameras.items() if camera.driver == "simulated")
    real = [name for name in cameras if name not in simulated]
    shared = [_node("camera", {**common, "cameras": simulated}, **rhythm)] if simulated else []
    return [
        *shared,
        *(
            Process(f"camera_{n}", NODES_PACKAGE, "camera", parameters={**common, "cameras": (n,)}, **rhythm)
            for n in real
        ),
    ]


def _common(arguments: GraphArguments, station: Station, run_dir: Path) -> dict[str, Parameter]:
    return {
        "robot": station.robot,
        "task": station.task,
        "run_dir": str(run_dir),
        "simulated_time": not arguments.realtime,
        "records_address": arguments.records_address,
        "weights_address": arguments.weights_address,
    }


def _node(name: str, parameters: Mapping[str, Parameter], **more: Any) -> Process:
    return Process(name, NODES_PACKAGE, name, parameters=parameters, **more)


def _rviz(arguments: GraphArguments) -> list[Process]:
    if not arguments.rviz:
        return []
    program = shutil.which("rviz2")
    if program is None:
        raise ConfigError("rviz2 is not installed; it comes with a ROS installation. Leave rviz:=true out.")
    return [Process("rviz", command=(program, "-d", str(rviz_file())), restart=NEVER, essential=False)]


def rviz_file() -> Path:
    """launch/pld.rviz, in a checkout or where colcon installed the package `pld`."""
    checkout = config_root().parent / "launch" / "pld.rviz"
    if checkout.exists():
        return checkout
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("pld")) / "launch" / "pld.rviz"


def _pld(verb: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "pld_core.cli.main", verb)


def _link_flags(arguments: GraphArguments) -> tuple[str, ...]:
    return (
        "--runner", "ros", "--ros.attach", "--ros.records_address", arguments.records_address,
        "--ros.weights_address", arguments.weights_address,
    )  # fmt: skip


def _policy_flags(arguments: GraphArguments) -> tuple[str, ...]:
    """What the learner must know of policy and reward; of the defaults, nothing."""
    reward = () if arguments.reward in (None, DEFAULT_REWARD) else ("--reward", arguments.reward)
    kind, _, path = arguments.policy.partition(":")
    if kind == "compact":
        return (*(("--base.checkpoint", path) if path else ()), *reward)
    return ("--policy", arguments.policy, *reward)


def _absolute(name: str) -> str:
    return str(Path(name).absolute()) if name.endswith((".yaml", ".yml")) else name


_AS_LEARNER: Mapping[str, Any] = {"restart": ON_FAILURE, "nice": LEARNER_NICE, "patience_s": CHECKPOINT_S}


@dataclass(frozen=True)
class Launch:
    """A name that can be launched: what `--help` says, who builds it, and its own defaults."""

    summary: str
    build: Callable[[str, GraphArguments], Graph]
    defaults: Mapping[str, Any] = field(default_factory=dict)


LAUNCHES: Mapping[str, Launch] = {
    "franka_train": Launch("the whole loop on a Franka Research 3", train_graph, {"robot": "franka_fr3"}),
    "yam_train": Launch(
        "the whole loop on an I2RT YAM", train_graph, {"robot": "yam_real_01", "task": "gpu_insertion"}
    ),
    "sim_train": Launch("the whole loop over nodes with a simulated arm", train_graph, {"task": DEFAULT_TASK}),
    "eval": Launch("success rates of a run's policies (run:=)", eval_graph),
    "replay": Launch("play a recorded episode for RViz (bag:=)", replay_graph),
}


def find_launch(name: str) -> Launch:
    """By name, or by the name of its launch file."""
    if name.removesuffix(".launch.py") not in LAUNCHES:
        raise UnknownNameError("launch", name, LAUNCHES, "See `pld launch --help`.")
    return LAUNCHES[name.removesuffix(".launch.py")]
