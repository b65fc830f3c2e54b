"""The graph as data, the arguments that it is built from, and what `pld launch` says about them."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pld_core.cli.main import main
from pld_core.config import load_config, to_dict
from pld_core.errors import ConfigError, PLDError, UnknownNameError
from pld_ros.graph import LAUNCHES, training_flags
from pld_ros.launching.arguments import GraphArguments, argument_fields, arguments_from, parse_arguments
from pld_ros.launching.launcher import graph_of
from pld_ros.launching.process import Graph, Process
from pld_ros.launching.supervisor import KILLED_S, Supervisor
from pld_ros.runner.own_graph import STOP_S, launch_arguments

NODES = ["robot", "camera", "vla_server", "reward", "replay_logger", "operator", "monitor", "controller"]
WITH_LEARNER = [*NODES[:-1], "learner", "controller"]


def names(graph: Graph) -> list[str]:
    return [process.name for process in graph.processes]


def test_the_simulated_station_has_every_node_and_the_learner(tmp_path: Path) -> None:
    graph = graph_of(["sim_train", "learn.steps:=300", "seed:=3", "wandb:=false", f"run_dir:={tmp_path / 'r'}"])
    assert names(graph) == WITH_LEARNER
    assert graph.main == "learner"
    command = graph.process("learner").argv()
    flags = dict(itertools.pairwise(command))
    assert flags["--learn.steps"] == "300"
    assert flags["--seed"] == "3"
    assert (flags["--runs_dir"], flags["--name"]) == (str(tmp_path), "r")
    assert {"--ros.attach", "--no_wandb"} <= set(command)
    assert graph.process("camera").parameters["cameras"] == ("wrist", "front")
    assert all(process.parameters["robot"] == "fr3_sim" for process in graph.processes if process.is_node)
    assert all(graph.process(name).real_time for name in ("controller", "robot", "operator"))
    assert not graph.process("controller").parameters["wait_for_operator"]


def test_the_learner_understands_its_command_line() -> None:
    from pld_core.cli.common import parse_config

    command = graph_of(["sim_train", "learn.steps:=300", "wandb:=false", "task:=cube_pickup"]).process("learner").argv()
    config = parse_config(command[command.index("train") + 1 :], "train")
    assert (config.task, config.robot, config.runner, config.ros.attach) == ("cube_pickup", "fr3_sim", "ros", True)
    assert config.learn.steps == 300


def test_a_real_arm_has_a_process_for_each_camera_and_waits_for_its_operator() -> None:
    graph = graph_of(["franka_train"])
    assert {"camera_wrist", "camera_front"} <= set(names(graph))
    assert graph.process("camera_wrist").parameters["cameras"] == ("wrist",)
    assert graph.process("controller").parameters["wait_for_operator"]
    twin = graph_of(["franka_train", "sim:=true"])
    assert names(twin) == WITH_LEARNER
    assert twin.process("robot").parameters["robot"] == "fr3_sim"


def test_the_arm_stands_still_before_the_learner_takes_its_time(tmp_path: Path) -> None:
    supervisor = Supervisor(graph_of(["sim_train", f"run_dir:={tmp_path}"]))
    first, second, *rest, last = [[child.name for child in group] for group in supervisor._stop_groups()]
    assert (first, second, last) == (["controller"], ["learner"], ["robot"])
    assert [sorted(group) for group in rest] == [sorted(set(NODES) - {"controller", "robot"})]


def finished_run(folder: Path, **settings: object) -> Path:
    folder.mkdir()
    config = load_config("peg_insertion", settings)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    return folder


def test_evaluation_judges_as_the_run_was_judged(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", reward="classifier:some.ckpt")
    graph = graph_of(["eval", f"run:={run}"])
    assert graph.process("reward").parameters["reward"] == "classifier:some.ckpt"
    assert "--task" not in graph.process("evaluation").command
    asked = graph_of(["eval", f"run:={run}", "reward:=binary", "task:=cube_pickup"])
    assert asked.process("reward").parameters["reward"] == "binary"
    flags = dict(itertools.pairwise(asked.process("evaluation").command))
    assert flags["--task"] == asked.process("robot").parameters["task"] == "cube_pickup"
    assert graph_of(["sim_train"]).process("reward").parameters["reward"] == "binary"


def test_the_nodes_of_a_run_are_told_its_settings_and_have_time_to_stop(tmp_path: Path) -> None:
    config = load_config("peg_insertion", {"ros.ready_timeout_s": 7.0, "reward": "classifier:some.ckpt"})
    graph = graph_of(["sim_train", *launch_arguments(config, tmp_path, "compact")])
    assert graph.process("controller").parameters["ready_timeout_s"] == 7.0
    assert graph.process("reward").parameters["reward"] == "classifier:some.ckpt"
    groups = Supervisor(graph)._stop_groups()
    worst_s = sum(2 * max(child.process.patience_s for child in group) + KILLED_S for group in groups)
    assert worst_s < STOP_S


def test_lockstep_has_simulated_time_and_no_real_time_priority() -> None:
    graph = graph_of(["sim_train", "realtime:=false"])
    assert graph.process("robot").parameters["simulated_time"] is True
    assert not any(process.real_time for process in graph.processes)
    assert graph.process("robot").environment["PLD_REAL_TIME"] == "0"


def test_without_the_learner_the_nodes_run_until_they_are_stopped() -> None:
    graph = graph_of(["yam_train", "sim:=true", "learner:=false"])
    assert (names(graph), graph.main) == (NODES, "")


def test_parameters_keep_their_types_on_the_way_through_a_shell_like_command_line() -> None:
    node = Process("n", "pld_ros", "camera", parameters={"a": True, "b": 1.0, "c": "x:y", "d": ("p", "q"), "e": ""})
    argv = node.argv("/pld")
    assert argv[:3] == (sys.executable, "-m", "pld_ros.nodes.camera")
    given = [value for flag, value in itertools.pairwise(argv) if flag == "-p"]
    assert given == ["a:=true", "b:=1.0", 'c:="x:y"', 'd:=["p", "q"]', 'e:=""']


def test_every_node_of_a_graph_is_a_program_of_the_package() -> None:
    setup = Path(__file__).parents[2] / "ros2_ws/src/pld_ros/setup.py"
    for name in ("sim_train", "franka_train"):
        for process in graph_of([name]).processes:
            assert not process.is_node or f'"{process.executable}"' in setup.read_text()


def test_a_recording_is_played_for_the_monitor(tmp_path: Path) -> None:
    graph = graph_of(["replay", f"bag:={tmp_path}", "rate:=2"])
    assert (names(graph), graph.main) == (["monitor", "bag_player"], "bag_player")
    assert graph.process("bag_player").parameters["rate"] == 2.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["sim_trian"], "Did you mean 'sim_train'"),
        (["sim_train", "taks:=x"], "Did you mean 'task'"),
        (["sim_train", "learn.stps:=3"], "Did you mean 'learn.steps'"),
        (["sim_train", "task"], "name:=value"),
        (["task:=x"], "Say first what to launch"),
        (["sim_train", "task:=cube_pikcup"], "Did you mean 'cube_pickup'"),
        (["sim_train", "robot:=fr3_sum"], "Did you mean 'fr3_sim'"),
        (["sim_train", "sim:=maybe"], "must be bool"),
        (["sim_train", "seed:=one"], "must be int"),
        (["sim_train", "domain:=102"], "between 0 and 101"),
        (["franka_train", "realtime:=false"], "Add sim:=true"),
        (["yam_train", "task:=peg_insertion"], "made for robot 'fr3_sim'"),
        (["sim_train", "name:=x"], "run_dir:="),
        (["sim_train", "runs_dir:=x"], "run_dir:="),
        (["sim_train", "runner:=local"], "leave it out"),
        (["sim_train", "ros.attach:=false"], "learner:=false"),
        (["sim_train", "ros.records_address:=tcp://127.0.0.1:1"], "Give records_address:="),
        (["sim_train", "ros.weights_address:=tcp://127.0.0.1:1"], "Give weights_address:="),
        (["eval"], "run:="),
        (["replay"], "bag:="),
    ],
)
def test_what_cannot_be_launched_is_refused_with_what_to_do(given: list[str], message: str) -> None:
    with pytest.raises(PLDError, match=message):
        graph_of(given)


def test_a_station_without_a_twin_cannot_be_simulated(tmp_path: Path) -> None:
    from pld_core.config import config_root

    text = (config_root() / "robots" / "franka_fr3.yaml").read_text().replace("simulated_twin: fr3_sim", "")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="simulated_twin"):
        graph_of(["sim_train", "sim:=true", f"robot:={tmp_path / 'mine.yaml'}"])


def test_a_twin_that_is_a_real_arm_is_never_taken_for_a_simulated_one(tmp_path: Path) -> None:
    from pld_core.config import config_root

    text = (config_root() / "robots" / "franka_fr3.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("simulated_twin: fr3_sim", "simulated_twin: franka_fr3"))
    with pytest.raises(ConfigError, match="franka_fr3 is named as a simulated_twin, but its driver is franka"):
        graph_of(["sim_train", "sim:=true", f"robot:={tmp_path / 'mine.yaml'}"])


def test_arguments_of_a_launch_file_are_the_same_arguments() -> None:
    texts = {f.name: "auto" if f.default is None else str(f.default).lower() for f in argument_fields()}
    assert arguments_from(texts) == GraphArguments()
    assert parse_arguments(["domain:=auto"]).domain is None
    with pytest.raises(UnknownNameError):
        arguments_from({"training": "x"})


def test_training_flags_are_those_of_pld_train() -> None:
    given = {"learn.steps": "5", "learn.residual_gripper": "false", "from_scratch": "true"}
    assert training_flags(given) == ("--learn.steps", "5", "--learn.no_residual_gripper", "--from_scratch")


def test_names_in_a_graph_are_unique() -> None:
    with pytest.raises(ConfigError, match="more than one process is called a"):
        Graph("g", (Process("a", command=("true",)), Process("a", command=("true",))), Path())
    with pytest.raises(ConfigError, match="no process 'b'"):
        Graph("g", (Process("a", command=("true",)),), Path(), main="b")


def test_the_command_line_lists_names_arguments_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in LAUNCHES)
    assert all(f.name in text and f.metadata["help"] in text for f in argument_fields())
    assert main(["launch", "sim_train", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in NODES)
    assert main(["launch", "sim_trian"]) == 2
    assert "Did you mean 'sim_train'?" in capsys.readouterr().err


def test_help_is_there_without_ros() -> None:
    code = (
        "import sys; sys.modules['rclpy'] = None; from pld_core.cli.main import main; sys.exit(main(['launch', '-h']))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
