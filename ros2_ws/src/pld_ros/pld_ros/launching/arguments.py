"""What a graph can be told: the arguments ``name:=value`` of `pld launch` and of `ros2 launch`."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from pld_core.config import TrainConfig
from pld_core.errors import ConfigError, UnknownNameError
from pld_core.strict import convert, known_keys
from pld_ros.environment import check_domain, current_domain


def _argument(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


# Settings of `pld train` on which nodes and learner must agree, and what to do instead of giving them to one of them.
DECIDED_HERE: Mapping[str, str] = {
    "name": "Give run_dir:=.",
    "runs_dir": "Give run_dir:=.",
    "runner": "It is always ros; leave it out.",
    "ros": "Give records_address:=, weights_address:=, realtime:= or ready_timeout_s:=.",
    "ros.attach": "Leave it out; with learner:=false you start a learner of your own.",
    **{f"ros.{n}": f"Give {n}:=." for n in ("records_address", "weights_address", "realtime", "ready_timeout_s")},
}


@dataclass(frozen=True)
class GraphArguments:
    """The arguments of every graph. None is said as ``auto``."""

    robot: str = _argument("", "station, or a path to its .yaml; empty: the one that the task is made for")
    task: str = _argument("", "task, or a path to its .yaml; empty, for eval: the run's")
    sim: bool = _argument(False, "use the station's simulated twin")
    domain: int | None = _argument(None, "ROS_DOMAIN_ID; auto: that of the environment, else 0")
    run_dir: str = _argument("", "folder of logs, bags and learner; empty: runs/<launch>-<task>-seed<seed>")
    run: str = _argument("", "eval: folder of the run whose policies are evaluated")
    bag: str = _argument("", "replay: folder of a recorded episode (a rosbag2 directory)")
    rate: float = _argument(1.0, "replay: speed; 1.0 as recorded")
    loop: bool = _argument(False, "replay: begin again at the end")
    seed: int = _argument(0, "seed of the run")
    realtime: bool = _argument(True, "false: a simulated arm runs in lockstep, as fast as the machine can")
    priority: bool = _argument(True, "real-time priority for what keeps the arm's rhythm, where the system permits it")
    reward: str | None = _argument(None, "binary, or classifier:<path>; auto: binary, for eval that of the run")
    policy: str = _argument("compact", "base policy: compact, compact:<checkpoint>, an installed name")
    prefetch: bool = _argument(True, "the VLA server works ahead of the controller's requests")
    wait_for_operator: bool | None = _argument(None, "episodes start by the operator; auto: with a real arm")
    front_end: str = _argument("none", "of the operator node: none, keyboard (this terminal's), gamepad, spacemouse")
    bags: bool = _argument(True, "record every episode as a rosbag2 directory")
    label_window_s: float | None = _argument(
        None, "seconds after an episode's end in which a label still counts; auto: 5 with a real arm, else 0"
    )
    max_age_ms: float | None = _argument(None, "oldest picture that a tick may use; auto: as the station says")
    ready_timeout_s: float = _argument(120.0, "seconds that the controller waits for the other nodes")
    learner: bool = _argument(True, "false: only the nodes; start `pld train --runner ros --ros.attach` yourself")
    rviz: bool = _argument(False, "also start rviz2 with launch/pld.rviz (a ROS installation has it)")
    records_address: str = _argument("tcp://127.0.0.1:5757", "where the replay logger delivers to the learner")
    weights_address: str = _argument("tcp://127.0.0.1:5758", "where the controller fetches weights")
    training: Mapping[str, str] = field(default_factory=dict)  # further settings of `pld train`, as they were written

    @property
    def domain_id(self) -> int:
        return current_domain() if self.domain is None else check_domain(self.domain)


def argument_fields() -> list[dataclasses.Field[Any]]:
    """The arguments that can be given, with ``default`` and ``metadata["help"]``."""
    return [f for f in dataclasses.fields(GraphArguments) if "help" in f.metadata]


def parse_arguments(given: Sequence[str], defaults: Mapping[str, Any] | None = None) -> GraphArguments:
    """``["task:=cube_pickup", "learn.steps:=2000"]`` over the defaults of one launch name."""
    pairs: dict[str, str] = {}
    for text in given:
        name, separator, value = text.partition(":=")
        if not separator or not name:
            raise ConfigError(f"Arguments are written name:=value, got {text!r}. `pld launch --help` lists them.")
        pairs[name] = value
    return arguments_from(pairs, defaults)


def arguments_from(pairs: Mapping[str, str], defaults: Mapping[str, Any] | None = None) -> GraphArguments:
    """The same from names and texts, as a launch file has them.

    A setting of `pld train` is handed on to it, unless the graph decides it; raises UnknownNameError for any
    other name.
    """
    names = {f.name for f in argument_fields()}
    train_keys = set(known_keys(TrainConfig))
    values: dict[str, Any] = {}
    training: dict[str, str] = {}
    for name, text in pairs.items():
        if name in names:
            values[name] = _value(name, text)
        elif name in DECIDED_HERE:
            raise ConfigError(f"The graph decides {name} for nodes and learner together. {DECIDED_HERE[name]}")
        elif name in train_keys:
            training[name] = text
        else:
            near = difflib.get_close_matches(name, train_keys, n=1, cutoff=0.6)
            near += [key for key in train_keys if key.rpartition(".")[2] == name]
            hint = "Every setting of `pld train` is one too, as in learn.steps:=20000."
            raise UnknownNameError("launch argument", name, {*names, *near}, hint)
    return GraphArguments(**{**(defaults or {}), **values}, training=training)


def shown(value: Any) -> str:
    """A default as it would be written on the command line."""
    if value is None:
        return "auto"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(name: str, text: str) -> Any:
    hint = typing.get_type_hints(GraphArguments)[name]
    optional = type(None) in typing.get_args(hint)
    if optional and text in ("auto", ""):
        return None
    if str in (hint, *typing.get_args(hint)):
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    return convert(hint, value, name, "the launch arguments")
