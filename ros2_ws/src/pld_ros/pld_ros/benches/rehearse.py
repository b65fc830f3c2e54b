"""``pld rehearse``: one episode of a task as a real arm would do it, with a simulator in place of its control box."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from pld_core import bring, registry
from pld_core.cli.common import only_json, take_flag, take_option
from pld_core.config import TrainConfig, config_root
from pld_core.errors import ConfigError, RobotUnavailableError, UnknownNameError
from pld_core.storage import storage_errors
from pld_core.types import Episode, EpisodeSpec
from pld_core.video import write_video
from pld_ros.benches.franka_simulator import FrankaSimulator
from pld_ros.benches.rehearsal import WHERE, Place, SceneSuccess, oracle
from pld_ros.environment import own_domain

if TYPE_CHECKING:
    from pld_ros.runner.ros_runner import RosRunner

STATION = "franka_fr3"
ORACLE = f"{oracle.__module__}:{oracle.__name__}"
REWARD = f"{SceneSuccess.__module__}:{SceneSuccess.__name__}"
VIDEO = "rehearsal.mp4"
READY_S = 150.0  # twelve programs start beside a simulator in real time: minutes, on two slow processors
EPISODE_S = 240.0  # from the nodes' start to the episode's end
LOOK_S = 0.5
_ENLARGED = 5  # policies see 64 pixels

HELP = """usage: pld rehearse TASK [--seed N] [--policy NAME] [--run_dir DIR] [--json]

One episode of a task through all nodes, the Franka's real driver and network cameras. The robot's side is a simulator
that speaks libfranka's protocol and has the task's objects in its scene. The base policy is the task's oracle, or
--policy: compact, compact:<checkpoint>, an installed name. Logs, bag and video go to --run_dir, a new folder
(runs/rehearse-TASK-seedN). The nodes are in a ROS domain of their own, so that no other arm hears them.
The last line is one JSON object: success, ticks, voided, video. Exit status 1 without success.
Needs the extras franka and opencv, `make ros`, and four processors to be sure: two are at their limit."""


def run(args: Sequence[str]) -> int:
    if "-h" in args or "--help" in args or not args:
        print(HELP)
        return 0 if args else 2
    as_json, rest = take_flag(args, "--json")
    seed, rest = take_option(rest, "--seed")
    policy, rest = take_option(rest, "--policy")
    given, rest = take_option(rest, "--run_dir")
    task, *others = rest or [""]
    if others:
        raise UnknownNameError("argument", others[0], ("--seed", "--policy", "--run_dir", "--json"))
    if task not in registry.names("scenes"):
        raise UnknownNameError("task that can be rehearsed", task, registry.names("scenes"))
    run_dir = _new_folder(Path(given or f"runs/rehearse-{task}-seed{_seed(seed)}"), numbered=given is None)
    with only_json(as_json, sys.stdout) as out:
        episode = rehearse(task, _seed(seed), run_dir, policy or ORACLE)
        video = _film(episode, run_dir / VIDEO)
        found = {"success": episode.success, "ticks": len(episode), "voided": episode.voided, "video": str(video)}
        print(json.dumps(found), file=out)
    return 0 if episode.success and not episode.voided else 1


def _seed(given: str | None) -> int:
    if given is not None and not given.isdigit():
        raise ConfigError(f"--seed is {given}; give an integer from 0 on.")
    return int(given or 0)


def _new_folder(wanted: Path, numbered: bool) -> Path:
    """A rehearsal begins anew: in what another one left, its episode could be taken for that of this one."""
    others = (wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(2))
    names = itertools.chain([wanted], others if numbered else ())
    folder = next((path for path in names if not path.exists()), wanted)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"--run_dir {folder} exists already; give a new folder.")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder.absolute()


def _film(episode: Episode, path: Path) -> Path:
    """All cameras side by side, as the policy saw them."""
    pictures = np.concatenate(list(episode.images.values()), axis=2)
    frames = pictures.repeat(_ENLARGED, axis=1).repeat(_ENLARGED, axis=2)
    return write_video(path, frames, caption=f"{episode.instruction}: {'success' if episode.success else 'failure'}")


def rehearse(task: str, seed: int, run_dir: Path, policy: str = ORACLE) -> Episode:
    """Carry out one episode; nodes' logs, bag and station file stay in ``run_dir``, an empty folder.

    Raises RobotUnavailableError where the nodes, the cameras or the simulator do not get ready, or end; ConfigError
    where an extra is missing.
    """
    from pld_ros.runner.own_graph import OwnGraph
    from pld_ros.runner.ros_runner import RosRunner

    registry.load("drivers", "franka")  # this and the next say what is missing
    registry.load("cameras", "opencv")
    joints = _settings()["home_joints_rad"]
    with contextlib.ExitStack() as stack:
        print(f"ROS domain {stack.enter_context(own_domain())}, logs in {run_dir / 'logs'}", flush=True)
        simulator = stack.enter_context(FrankaSimulator(scene=task, seed=seed, joints_rad=joints))
        place = Place(simulator.host, task, seed)
        url = stack.enter_context(_cameras(place))
        config = _config(task, policy, _write_station(run_dir, simulator.host, url))
        graph = OwnGraph(_launch_arguments(config, run_dir), run_dir, {WHERE: json.dumps(dataclasses.asdict(place))})
        stack.callback(graph.close)
        # One refusal is enough: nobody is here to press and release an emergency stop after a fault.
        runner = RosRunner(
            config, run_dir, bring.base_policy(policy), residual=False, features=None, graph=graph, refusals=1
        )
        stack.callback(runner.close)
        ended = threading.Event()
        watch = threading.Thread(target=_give_up, args=(runner, ended), daemon=True)
        watch.start()
        stack.callback(watch.join)
        stack.callback(ended.set)
        try:
            return next(iter(runner.run([EpisodeSpec(task, seed)])))
        except CancelledError as stopped:
            raise RobotUnavailableError(
                f"There was no episode: {runner.waits_for or 'the controller took no order'}. "
                f"See {run_dir / 'logs'}; a machine that is too busy for all nodes does this."
            ) from stopped


def _give_up(runner: RosRunner, ended: threading.Event) -> None:
    """End what comes to no episode: a fault of the arm, which stays, or nodes that come and go.

    A night's run waits for its operator; who rehearses sits and waits.
    """
    give_up = time.monotonic() + EPISODE_S
    while not ended.wait(LOOK_S):
        if time.monotonic() > give_up or "emergency stop" in runner.waits_for:
            return runner.stop()


def _settings() -> dict[str, Any]:
    return yaml.safe_load((config_root() / "robots" / f"{STATION}.yaml").read_text())


def _write_station(run_dir: Path, host: str, url: str) -> Path:
    """The real arm's station, but for its address and the cameras' kind."""
    settings = _settings()
    settings["address"] = host
    settings["cameras"] = {name: {"driver": "opencv", "serial": f"{url}/{name}"} for name in settings["cameras"]}
    path = run_dir / f"{STATION}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def _config(task: str, policy: str, station: Path) -> TrainConfig:
    config = TrainConfig(task=task, robot=str(station), runner="ros", policy=policy, reward=REWARD)
    records, weights = _free_ports()
    ros = dataclasses.replace(
        config.ros, attach=True, records_address=records, weights_address=weights, ready_timeout_s=READY_S
    )
    return dataclasses.replace(config, ros=ros)


def _launch_arguments(config: TrainConfig, run_dir: Path) -> list[str]:
    from pld_ros.runner.own_graph import launch_arguments

    own = {"realtime": "true", "wait_for_operator": "false", "label_window_s": "0"}
    given = launch_arguments(config, run_dir, config.policy)
    return [text for text in given if text.partition(":=")[0] not in own] + [f"{k}:={v}" for k, v in own.items()]


@contextlib.contextmanager
def _cameras(place: Place) -> Iterator[str]:
    """Yields the URL of the scene's cameras."""
    command = [sys.executable, "-m", "pld_ros.benches.scene_cameras"]
    for key, value in dataclasses.asdict(place).items():
        command += [f"--{key}", str(value)]
    # In a session of its own: Ctrl-C is this process's to answer.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise RobotUnavailableError(f"The cameras of the scene have not started: {' '.join(command[1:])}")
            yield url
        finally:
            process.stdin.close()
            process.terminate()


def _free_ports() -> tuple[str, str]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return tuple(f"tcp://127.0.0.1:{each.getsockname()[1]}" for each in (one, other))  # type: ignore[return-value]
