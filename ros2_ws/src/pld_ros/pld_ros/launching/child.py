"""One process of a graph while it is supervised: started in a group of its own, logged, signalled."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from pld_core.errors import ConfigError
from pld_core.storage import storage_errors
from pld_ros.launching.process import Process

State = Literal["new", "running", "waiting", "ended", "failed"]
STARTER = Path(__file__).with_name("starter.py")
TAIL_BYTES = 16_384
HEADING = "--- "  # of the launcher's line at each start


class Child:
    """Starts and ends the process; who decides about restarts is the supervisor."""

    def __init__(
        self, process: Process, argv: tuple[str, ...], environment: Mapping[str, str], log: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.process, self.log = process, log
        self.state: State = "new"
        self.starts = 0
        self.deaths = 0  # quick ones in a row
        self.started_at = self.due_at = self.lived_s = 0.0
        self.exit_status: int | None = None  # of the last end; negative: the signal that killed it
        self._argv, self._environment, self._clock = argv, dict(environment), clock
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def group(self) -> int:
        """Id of the last process that was started, and of its group."""
        return self._popen.pid if self._popen is not None else 0

    @property
    def age_s(self) -> float:
        """Seconds since its start."""
        return self._clock() - self.started_at if self.state == "running" else 0.0

    @property
    def is_due(self) -> bool:
        return self.state == "waiting" and self._clock() >= self.due_at

    def wait_for(self, delay_s: float) -> None:
        """Be due in ``delay_s``."""
        self.state, self.due_at = "waiting", self._clock() + delay_s

    def start(self) -> None:
        starter = (sys.executable, "-I", "-S", str(STARTER), str(os.getpid()), str(self.process.nice))
        with storage_errors(self.log):
            # Closed below, the process keeps its own; unbuffered, so that closing it cannot fail.
            log = open(self.log, "ab", buffering=0)  # noqa: SIM115
        with log:
            command = shlex.join(self._argv).replace("\n", "\\n")
            with contextlib.suppress(OSError):  # a full disk: better no heading than no arm
                log.write(f"{HEADING}{datetime.now():%Y-%m-%d %H:%M:%S} {command}\n".encode())
            try:
                self._popen = subprocess.Popen(
                    [*starter, *self._argv],
                    env=self._environment,
                    stdin=None if self.process.terminal else subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Only a process of the terminal's own group may read from it.
                    start_new_session=not self.process.terminal,
                )
            except OSError as error:
                raise ConfigError(f"Cannot start {self.name}: {error.strerror} ({self._argv[0]}).") from error
        self.state, self.started_at, self.exit_status = "running", self._clock(), None
        self.starts += 1

    def has_ended(self) -> bool:
        """Whether it ended since the last look; its group is killed then, so that nothing of it stays."""
        if self.state != "running" or self._popen is None:
            return False
        if os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        self.send(signal.SIGKILL)  # before its id is free for others
        self.lived_s = self.age_s
        self.exit_status, self.state = self._popen.wait(), "ended"
        return True

    def send(self, number: signal.Signals) -> None:
        """To the whole group, where it has one of its own."""
        if self._popen is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.process.terminal:
                os.kill(self._popen.pid, number)
            else:
                os.killpg(self._popen.pid, number)

    def how_it_ended(self) -> str:
        status = self.exit_status
        if status is None:
            return "is running"
        if status < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-status).name}"
            return f"was killed by signal {-status}"
        return f"ended with exit status {status}"

    def last_lines(self, count: int = 20) -> list[str]:
        """The end of the log, without the lines of the launcher."""
        try:
            with open(self.log, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            return []
        lines = [line.rstrip() for line in text.splitlines()]
        return [line for line in lines if line and not line.startswith(HEADING)][-count:]
