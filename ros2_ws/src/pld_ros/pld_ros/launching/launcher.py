"""`pld launch NAME [argument:=value ...]`: starts a node graph without ros2cli and keeps it running."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pld_core.cli.common import take_flag
from pld_core.errors import ConfigError
from pld_ros.environment import require_messages
from pld_ros.graph import LAUNCHES, find_launch
from pld_ros.launching.arguments import argument_fields, parse_arguments, shown
from pld_ros.launching.process import Graph
from pld_ros.launching.status_view import StatusView
from pld_ros.launching.supervisor import Supervisor


def launch(args: Sequence[str]) -> int:
    """What the verb `launch` does; returns the exit status: 0 when the learner finished well."""
    dry_run, rest = take_flag(args, "--dry-run")
    if not rest or rest[0] in ("-h", "--help", "help") or "--help" in rest:
        print(usage())
        return 0
    graph = graph_of(rest)
    if dry_run:
        print(graph.describe())
        return 0
    require_messages()
    return run(graph)


def graph_of(args: Sequence[str]) -> Graph:
    """The graph of ``NAME [argument:=value ...]``."""
    name, *given = args
    if ":=" in name or name.startswith("-"):
        raise ConfigError(f"Say first what to launch ({', '.join(LAUNCHES)}), then its arguments, got {name!r}.")
    chosen = find_launch(name)
    return chosen.build(name.removesuffix(".launch.py"), parse_arguments(given, chosen.defaults))


def run(graph: Graph) -> int:
    """Supervise a graph in this process until it ends or a signal comes."""
    with StatusView() as view:
        supervisor = Supervisor(graph, view.line)
        _handle_signals(supervisor)
        view.line(f"{graph.name}: {len(graph.processes)} processes, ROS domain {graph.domain}, {_where(graph)}")
        refused = real_time_problem() if any(process.real_time for process in graph.processes) else ""
        if refused:
            view.line(f"warning: {refused}")
        return supervisor.run(lambda: view.refresh(supervisor))


def usage() -> str:
    """The text of ``pld launch --help``."""
    width = max(map(len, LAUNCHES))
    names = "\n".join(f"  {name:<{width}}  {each.summary}" for name, each in LAUNCHES.items())
    wide = max(len(f.name) for f in argument_fields())
    rows = []
    for argument in argument_fields():
        default = shown(argument.default)
        rows.append(f"  {argument.name:<{wide}}  {argument.metadata['help']}" + (f" [{default}]" if default else ""))
    own = [
        f"  {name:<{width}}  " + ", ".join(f"{key}:={shown(value)}" for key, value in each.defaults.items())
        for name, each in LAUNCHES.items()
        if each.defaults
    ]
    return (
        "usage: pld launch NAME [argument:=value ...] [--dry-run]\n\n"
        "Starts the nodes of a station and the learner, and keeps them running until the learner is done.\n\n"
        f"names:\n{names}\n\narguments [default]:\n" + "\n".join(rows) + "\n\ndefaults of a name:\n" + "\n".join(own)
        + "\n\nEvery setting of `pld train` is an argument too: learn.steps:=20000.\n"
        "--dry-run prints the graph. The same launches exist for a ROS installation: ros2 launch pld NAME.launch.py"
    )  # fmt: skip


def real_time_problem() -> str:
    """Why processes cannot have real-time priority here; empty where they can."""
    from pld_ros.node import RHYTHM_PRIORITY  # needs ROS, which the help and --dry-run do without

    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(RHYTHM_PRIORITY))
    except OSError as error:
        return (
            f"no real-time priority {RHYTHM_PRIORITY} for what keeps the arm's rhythm ({error.strerror}), so ticks may "
            f"come late on a busy machine. Permit it: add '<user> - rtprio {RHYTHM_PRIORITY}' to "
            "/etc/security/limits.conf and log in again."
        )
    os.sched_setscheduler(0, *before)
    return ""


def _handle_signals(supervisor: Supervisor) -> None:
    """An ordered end; at once after a second Ctrl-C only. Other signals come in pairs by themselves: a terminal
    that is closed sends SIGHUP, and whoever closed it SIGTERM."""
    interrupts = itertools.count(1)

    def stop(received: int, _: object) -> None:
        supervisor.request_stop(128 + received)
        if received == signal.SIGINT and next(interrupts) > 1:
            supervisor.request_kill()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup leaves it: the graph outlives its terminal
        signal.signal(signal.SIGHUP, stop)


def _where(graph: Graph) -> str:
    folder = graph.run_dir / "logs"
    return f"logs in {folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder}"


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
