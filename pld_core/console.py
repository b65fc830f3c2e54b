"""Live progress of a run: a table in a terminal, one line every few seconds everywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pld_core.statistics import SuccessRate, wilson

Status = Literal["waiting", "running", "done", "skipped", "failed", "interrupted"]
_MARKS: Mapping[str, tuple[str, str]] = {
    "waiting": ("·", "dim"),
    "running": ("▶", "cyan"),
    "done": ("✓", "green"),
    "skipped": ("✓", "dim green"),
    "failed": ("✗", "red"),
    "interrupted": ("‖", "yellow"),
}


@dataclass
class StageProgress:
    """One line of the table; made by `Console.stage`."""

    name: str
    total: float | None = None
    unit: str = ""
    status: Status = "waiting"
    completed: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    started: float = 0.0
    finished: float = 0.0
    first: float = 0.0  # what was complete already when a resumed stage started
    _changed: Callable[[StageProgress], None] = field(default=lambda _: None, repr=False)

    def update(self, completed: float | None = None, **metrics: Any) -> None:
        """Show progress. Metrics are shown as given; ``success=(successes, episodes)`` gets its interval."""
        if completed is not None:
            self.completed = float(completed)
        self.metrics.update(metrics)
        self._changed(self)

    def advance(self, n: float = 1, **metrics: Any) -> None:
        self.update(self.completed + n, **metrics)

    def resume_at(self, completed: float) -> None:
        """Say that this much was done by an earlier process, so that the ETA is not fooled by it."""
        self.first = self.completed = float(completed)
        self._changed(self)

    def seconds(self, now: float) -> float:
        if not self.started:
            return 0.0
        return (self.finished or now) - self.started

    def eta(self, now: float) -> float | None:
        """Seconds to go at the pace so far, or None when nothing can be said."""
        done = self.completed - self.first
        if self.total is None or done <= 0 or self.status != "running":
            return None
        return max(0.0, (self.total - self.completed) * self.seconds(now) / done)


class Console:
    """Shows the stages of a run. Use as a context manager around all of them.

    stream: where to write; live: force the table on or off (default: on in a terminal);
    interval_s: shortest time between two plain lines of a running stage; on_progress: called with every update.
    """

    def __init__(
        self,
        stages: Sequence[str],
        title: str = "",
        *,
        stream: TextIO | None = None,
        live: bool | None = None,
        interval_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_progress = on_progress
        self._stream = stream or sys.stdout
        self._rich = RichConsole(file=self._stream)
        self._is_live = self._rich.is_terminal if live is None else live
        self._title, self._interval, self._clock = title, interval_s, clock
        self._rows = {name: StageProgress(name) for name in stages}
        self._last_line = -float("inf")
        self._live: Live | None = None

    def __enter__(self) -> Console:
        if self._is_live:
            self._live = Live(get_renderable=self._render, console=self._rich, refresh_per_second=4)
            self._live.start()
        elif self._title:
            self._line(self._title)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    @contextlib.contextmanager
    def stage(self, name: str, total: float | None = None, unit: str = "") -> Iterator[StageProgress]:
        """Run a stage: marks it running, then done, or failed or interrupted when the block raises."""
        row = self._rows.setdefault(name, StageProgress(name))
        row.total, row.unit, row.status, row.started = total, unit, "running", self._clock()
        row.finished, row._changed = 0.0, self._changed
        self._plain(f"{name}: started")
        self._last_line = self._clock()
        try:
            yield row
        except BaseException as error:
            row.status = "interrupted" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "failed"
            raise
        else:
            row.status = "done"
        finally:
            row.finished = self._clock()
            self._plain(f"{name}: {row.status} in {duration(row.seconds(row.finished))}{_details(row)}")

    def skip(self, name: str, note: str = "finished earlier") -> None:
        """Mark a stage that need not run again."""
        row = self._rows.setdefault(name, StageProgress(name))
        row.status, row.note = "skipped", note
        self._plain(f"{name}: {note}")

    def note(self, text: str) -> None:
        """A line above the table, for what a user should read once."""
        if self._live is not None:
            self._live.console.print(Text(text))
        else:
            self._line(text)

    def _changed(self, row: StageProgress) -> None:
        self._on_progress()
        now = self._clock()
        if self._live is None and now - self._last_line >= self._interval:
            self._last_line = now
            of = f"/{row.total:,.0f}" if row.total is not None else ""
            eta = row.eta(now)
            tail = f", {duration(eta)} to go" if eta is not None else ""
            self._line(f"{row.name}: {row.completed:,.0f}{of} {row.unit}".rstrip() + _details(row) + tail)

    def _plain(self, text: str) -> None:
        if self._live is None:
            self._line(text)

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def _render(self) -> Group:
        now = self._clock()
        table = Table.grid(padding=(0, 2))
        for _ in range(3):
            table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        for row in self._rows.values():
            mark, style = _MARKS[row.status]
            bar: Any = ""
            if row.status == "running" and row.total:
                bar = ProgressBar(total=row.total, completed=min(row.completed, row.total), width=24)
            eta = row.eta(now)
            clock = duration(row.seconds(now)) if row.started else ""
            clock += f" (−{duration(eta)})" if eta is not None else ""
            text = row.note if row.status == "skipped" else _details(row).removeprefix(", ")
            if row.status == "running" and row.total:
                text = f"{row.completed:,.0f}/{row.total:,.0f} {row.unit}".rstrip() + (f", {text}" if text else "")
            table.add_row(Text(f"{mark} {row.name}", style=style), bar, clock, Text(text))
        header = [Text(self._title, style="bold")] if self._title else []
        return Group(*header, table)


def duration(seconds: float) -> str:
    """``75`` as ``1:15``; from an hour on with hours."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _details(row: StageProgress) -> str:
    shown = [_metric(name, value) for name, value in row.metrics.items() if value is not None]
    return "".join(f", {text}" for text in shown)


def _metric(name: str, value: Any) -> str:
    label = name.replace("_", " ")
    if isinstance(value, SuccessRate):
        value = (value.successes, value.episodes)
    if isinstance(value, tuple) and len(value) == 2:
        low, high = wilson(int(value[0]), int(value[1]))
        rate = 100 * value[0] / value[1] if value[1] else 0.0
        return f"{label} {rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
    if isinstance(value, float) and label.endswith("success rate"):
        return f"{label.removesuffix(' rate').replace('/', ' ')} {100 * value:.0f} %"
    if isinstance(value, float):
        return f"{label} {value:,.0f}" if abs(value) >= 100 else f"{label} {value:.3g}"
    return f"{label} {value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{label} {value}"
