"""Keeps the processes of a graph running: start in order, restart with back-off, ordered end, exit status."""

from __future__ import annotations

import contextlib
import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pld_core.errors import ConfigError, PLDError
from pld_core.storage import storage_errors
from pld_ros import shared_memory
from pld_ros.environment import ros_environment
from pld_ros.launching.child import Child
from pld_ros.launching.process import Graph

POLL_S = 0.1
STOP_POLL_S = 0.02
KILLED_S = 5.0  # that the kernel may take to end a killed process
GUARDIAN = Path(__file__).with_name("guardian.py")


class GraphError(PLDError):
    """A process that the graph cannot do without could not be kept running."""


class Supervisor:
    """Runs a graph until its main process finishes, somebody asks for the end, or a process is hopeless.

    report: gets a line for each event. Everything but ``request_stop`` and ``request_kill`` belongs to one
    thread; that thread must outlive the processes, because the system ends them with it.
    """

    def __init__(self, graph: Graph, report: Callable[[str], None] = print) -> None:
        self.graph, self.report = graph, report
        self.children = [self._child(index) for index in range(len(graph.processes))]
        # Plain flags: a signal handler that sets an Event deadlocks with the wait that it interrupted.
        self._stop_requested = self._kill_requested = False
        self._status = 0
        self._guardian: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    def _child(self, index: int) -> Child:
        process, logs = self.graph.processes[index], self.graph.run_dir / "logs"
        environment = {
            **ros_environment(self.graph.domain),
            "PYTHONUNBUFFERED": "1",  # the log tells what happened last, even of who was killed
            "RCUTILS_COLORIZED_OUTPUT": "0",
            "ROS_LOG_DIR": str(logs / "ros"),
            **process.environment,
        }
        return Child(process, process.argv(self.graph.namespace), environment, logs / f"{process.name}.log")

    def run(self, on_step: Callable[[], None] = lambda: None) -> int:
        """Start, supervise and stop everything; the exit status for the shell.

        Raises GraphError when a process is hopeless, StorageError when logs cannot be written.
        """
        try:
            self.start()
            while True:
                time.sleep(POLL_S)
                if self._stop_requested or self.step():
                    break
                on_step()
            return self._status
        finally:
            self.stop(on_step)

    def request_stop(self, status: int) -> None:
        """End the graph in order, with the exit status of the first request. For signal handlers and other threads."""
        if not self._stop_requested:
            self._status, self._stop_requested = status, True

    def request_kill(self) -> None:
        """An end that was requested is wanted at once, without patience. For signal handlers and other threads."""
        self._kill_requested = True

    def start(self) -> None:
        self._lock_folder()
        shared_memory.remove_dead_files()
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARDIAN)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        for child in self.children:
            self._start(child)

    def step(self) -> bool:
        """Look after every process once; True when the main one has finished."""
        for child in self.children:
            if child.is_due:
                self._start(child)
            elif child.has_ended() and self._bury(child):
                return True
        return False

    def stop(self, on_step: Callable[[], None] = lambda: None) -> None:
        """End the processes in the opposite order of their start."""
        for group in self._stop_groups():
            self._end([child for child in group if child.state == "running"], on_step)
        for child in self.children:
            child.state = child.state if child.state == "failed" else "ended"
        if self._guardian is not None and self._guardian.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._guardian.stdin.close()
            self._guardian.wait()
            self._guardian = None
        shared_memory.remove_dead_files()
        if self._lock is not None:
            self._lock.close()

    # -- one process -----------------------------------------------------------------------------

    def _start(self, child: Child) -> None:
        child.start()
        self._tell_guardian("+", child)
        if child.starts == 1:
            self.report(f"{child.name}: started, log in {child.log}")
        else:
            self.report(f"{child.name}: started again")

    def _bury(self, child: Child) -> bool:
        """Decide what follows from a process's end; True when the graph is finished."""
        self._tell_guardian("-", child)
        shared_memory.remove_dead_files()
        restart, status = child.process.restart, child.exit_status
        is_main = child.name == self.graph.main
        if status == 0 and not (restart.wanted and restart.after_success):
            self.report(f"{child.name}: finished")
            return is_main
        child.deaths = child.deaths + 1 if child.lived_s < restart.well_after_s else 1
        told = f"{child.name} {child.how_it_ended()} after {child.lived_s:.1f} s"
        if restart.wanted and status not in restart.hopeless and child.deaths < restart.quick_deaths:
            delay = restart.delay_s(child.deaths)
            child.wait_for(delay)
            self.report(f"{told}; it starts again in {delay:.1f} s")
            return False
        child.state = "failed"
        if child.process.essential or is_main:
            raise GraphError(self._obituary(child, told))
        self.report(f"{told} and is left alone; its log is {child.log}")
        return False

    def _obituary(self, child: Child, told: str) -> str:
        again = f", {child.deaths} times in a row" if child.deaths > 1 else ""
        end = "\n".join(f"    {line}" for line in child.last_lines()) or "    (empty)"
        return f"{told}{again}. The end of its log, {child.log}:\n{end}"

    def _stop_groups(self) -> list[list[Child]]:
        groups: list[list[Child]] = []
        for child in reversed(self.children):
            if child.process.stops_with_others and groups and groups[-1][-1].process.stops_with_others:
                groups[-1].append(child)
            else:
                groups.append([child])
        return groups

    def _end(self, group: list[Child], on_step: Callable[[], None]) -> None:
        """SIGINT, then SIGTERM, then SIGKILL, with the processes' own patience between."""
        left = group
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            patience_s = max((child.process.patience_s for child in left), default=0.0)
            if number == signal.SIGKILL:
                patience_s = KILLED_S
            elif self._kill_requested:
                continue
            for child in left:
                child.send(number)
            left = self._wait_for_end(left, number, patience_s, on_step)
        for child in left:
            self.report(f"{child.name}: does not end, process {child.group}")

    def _wait_for_end(
        self, group: list[Child], number: signal.Signals, patience_s: float, on_step: Callable[[], None]
    ) -> list[Child]:
        """Who is left after that time; shorter where somebody has them killed."""
        deadline, left = time.monotonic() + patience_s, list(group)
        while left and time.monotonic() < deadline:
            for child in left:
                if child.has_ended():
                    self._tell_guardian("-", child)
                    self.report(f"{child.name}: stopped ({number.name})")
            left = [child for child in left if child.state == "running"]
            if number != signal.SIGKILL and self._kill_requested:
                break
            on_step()
            time.sleep(STOP_POLL_S)
        return left

    # -- around the processes --------------------------------------------------------------------

    def _tell_guardian(self, change: str, child: Child) -> None:
        if child.process.terminal or self._guardian is None or self._guardian.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._guardian.stdin.write(f"{change}{child.group}\n".encode())
            self._guardian.stdin.flush()

    def _lock_folder(self) -> None:
        logs = self.graph.run_dir / "logs"
        with storage_errors(logs):
            logs.mkdir(parents=True, exist_ok=True)
            self._lock = open(logs / ".lock", "w", encoding="utf-8")  # noqa: SIM115 (held until the end)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"Another launcher is at work in {self.graph.run_dir}. Stop it, or give another run_dir:=."
            ) from None
