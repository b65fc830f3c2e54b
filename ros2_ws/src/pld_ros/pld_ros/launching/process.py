"""What a graph of nodes consists of, as plain data: processes, and when to start them again."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pld_core.errors import ConfigError

NODES_PACKAGE = "pld_ros"
NAMESPACE = "/pld"
Parameter = bool | int | float | str | tuple[str, ...]


@dataclass(frozen=True)
class Restart:
    """When a process that ended is started again: after a pause that doubles with each quick death."""

    wanted: bool = True
    after_success: bool = True  # also when it ended with exit status 0
    hopeless: tuple[int, ...] = ()  # exit statuses that say that another try would end the same
    first_delay_s: float = 0.5
    longest_delay_s: float = 15.0
    well_after_s: float = 30.0  # who ran for so long ran well: its deaths are counted anew
    quick_deaths: int = 6  # in a row; then the graph gives up

    def delay_s(self, deaths: int) -> float:
        """The pause after that many quick deaths in a row."""
        return min(self.longest_delay_s, self.first_delay_s * 2.0 ** max(0, deaths - 1))


NEVER = Restart(wanted=False)
ON_FAILURE = Restart(after_success=False, hopeless=(2,))  # 2: pld has said what is wrong with its settings


@dataclass(frozen=True)
class Process:
    """One process of a graph: a node (``package`` and ``executable``), or any ``command``."""

    name: str
    package: str = ""
    executable: str = ""
    command: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    remappings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    restart: Restart = Restart()
    real_time: bool = False  # asks for real-time priority
    nice: int = 0
    terminal: bool = False  # reads keys from the launcher's terminal
    essential: bool = True  # the graph gives up when this one cannot be kept running
    patience_s: float = 4.0  # after SIGINT, and again after SIGTERM, before it is killed
    stops_with_others: bool = False  # at the same time as its neighbours that do so too

    @property
    def is_node(self) -> bool:
        return not self.command

    def argv(self, namespace: str = NAMESPACE) -> tuple[str, ...]:
        """The command line that starts it without ros2cli."""
        if self.command:
            return self.command
        if self.package != NODES_PACKAGE:
            raise ConfigError(f"Only nodes of {NODES_PACKAGE} can be started without ros2cli, not {self.package}.")
        remappings = {"__node": self.name, "__ns": namespace, **self.remappings}
        return (
            sys.executable, "-m", f"{self.package}.nodes.{self.executable}",
            "--ros-args", "--disable-external-lib-logs",  # standard error is the one log of a node
            *(part for name, value in remappings.items() for part in ("-r", f"{name}:={value}")),
            *(part for name, value in self.parameters.items() for part in ("-p", f"{name}:={_yaml(value)}")),
        )  # fmt: skip


@dataclass(frozen=True)
class Graph:
    """Processes in the order of their start; they are stopped in the opposite order, each before the next."""

    name: str
    processes: tuple[Process, ...]
    run_dir: Path
    domain: int = 0
    namespace: str = NAMESPACE
    main: str = ""  # the process whose end is the end of the graph; empty: it runs until it is stopped

    def __post_init__(self) -> None:
        names = [process.name for process in self.processes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"Graph {self.name}: more than one process is called {', '.join(twice)}.")
        if self.main and self.main not in names:
            raise ConfigError(f"Graph {self.name} has no process {self.main!r} to wait for, only {', '.join(names)}.")

    def process(self, name: str) -> Process:
        return next(process for process in self.processes if process.name == name)

    def describe(self) -> str:
        """For people: what all nodes are told, then a line for each process with what only it is told."""
        nodes = [process.parameters for process in self.processes if process.is_node]
        common = {k: v for k, v in nodes[0].items() if all(p.get(k) == v for p in nodes)} if nodes else {}
        width = max((len(process.name) for process in self.processes), default=0)
        lines = [
            f"{self.name}: {len(self.processes)} processes in namespace {self.namespace}, ROS domain {self.domain}",
            f"logs in {self.run_dir / 'logs'}",
            *(["every node: " + _settings(common)] if common else []),
        ]
        for process in self.processes:
            own = {name: value for name, value in process.parameters.items() if name not in common}
            lines.append(f"  {process.name:<{width}}  {', '.join(_notes(process))}  {_settings(own)}".rstrip())
        return "\n".join(lines)


def _settings(parameters: Mapping[str, Parameter]) -> str:
    return " ".join(f"{name}={_yaml(value)}" for name, value in parameters.items())


def _notes(process: Process) -> list[str]:
    return [
        f"{process.package}/{process.executable}" if process.is_node else shlex.join(process.command),
        *(["real-time priority"] if process.real_time else []),
        *([f"nice {process.nice}"] if process.nice else []),
        *(["reads the terminal"] if process.terminal else []),
        *([] if process.restart.wanted else ["never restarted"]),
    ]


def _yaml(value: Parameter) -> str:
    """A value as ROS's YAML parser reads back the same type; JSON is a subset of YAML."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)
