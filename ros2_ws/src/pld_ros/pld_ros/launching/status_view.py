"""What a running graph shows: a table in a terminal, lines everywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from rich.console import Console as RichConsole
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pld_core.console import duration
from pld_ros.launching.child import HEADING, Child
from pld_ros.launching.supervisor import Supervisor

REFRESH_S = 0.5
_STYLES: Mapping[str, tuple[str, str]] = {
    "new": ("·", "dim"),
    "running": ("▶", "green"),
    "waiting": ("↻", "yellow"),
    "ended": ("✓", "dim"),
    "failed": ("✗", "red"),
}


class _Console(RichConsole):
    """Goes on after a broken pipe, where rich ends the process: the graph is to be stopped in order."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class StatusView:
    """Use as a context manager; ``line`` for events, ``refresh`` as often as you like.

    Once the terminal has gone nothing is shown, and the supervisor goes on undisturbed.
    """

    def __init__(self, stream: TextIO | None = None, live: bool | None = None) -> None:
        self._rich = _Console(file=stream or sys.stdout)
        self._is_live = self._rich.is_terminal if live is None else live
        self._live: Live | None = None
        self._shown_at = float("-inf")
        self._follower: _Follower | None = None

    def __enter__(self) -> StatusView:
        if self._is_live:
            live = Live(console=self._rich, auto_refresh=False)
            with self._while_shown():
                live.start()
                self._live = live
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            with self._while_shown():
                self._live.stop()
            self._live = None

    @contextlib.contextmanager
    def _while_shown(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._rich.quiet = True  # or what cannot be written would pile up

    def line(self, text: str) -> None:
        """An event, with the time."""
        self._print(f"{time.strftime('%H:%M:%S')} {text}")

    def refresh(self, supervisor: Supervisor) -> None:
        if time.monotonic() - self._shown_at < REFRESH_S:
            return
        self._shown_at = time.monotonic()
        if self._live is not None:
            with self._while_shown():
                self._live.update(table(supervisor.graph.name, supervisor.children), refresh=True)
        else:
            self._follow(supervisor)

    def _follow(self, supervisor: Supervisor) -> None:
        """Where there is no table, the lines of the main process are passed on."""
        if not supervisor.graph.main:
            return
        if self._follower is None:
            log = next(child.log for child in supervisor.children if child.name == supervisor.graph.main)
            self._follower = _Follower(log)
        for text in self._follower.new_lines():
            self._print(f"{supervisor.graph.main} | {text}")

    def _print(self, text: str) -> None:
        console = self._live.console if self._live is not None else self._rich
        with self._while_shown():
            console.print(Text(text), soft_wrap=True)


def table(title: str, children: list[Child]) -> Table:
    """A row for each process: state, restarts, age, the last thing that it said."""
    rows = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), expand=True)
    for name in ("process", "state", "restarts", "age"):
        rows.add_column(name, no_wrap=True, justify="right" if name in ("restarts", "age") else "left")
    rows.add_column("last line of its log", no_wrap=True, ratio=1, overflow="ellipsis")
    for child in children:
        mark, style = _STYLES[child.state]
        last = child.last_lines(1)
        rows.add_row(
            Text(f"{mark} {child.name}", style=style),
            child.state,
            str(max(0, child.starts - 1)),
            duration(child.age_s) if child.state == "running" else "",
            Text(last[0] if last else "", style="dim"),
        )
    return rows


class _Follower:
    """Whole lines that were added to a file since the last look."""

    def __init__(self, path: Path) -> None:
        self._path, self._rest = path, b""
        self._offset = 0

    def new_lines(self) -> list[str]:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                added = file.read()
        except OSError:
            return []
        self._offset += len(added)
        *whole, self._rest = (self._rest + added).split(b"\n")
        lines = [line.decode("utf-8", errors="replace").rstrip() for line in whole]
        return [line for line in lines if line and not line.startswith(HEADING)]
