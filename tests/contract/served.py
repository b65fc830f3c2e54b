"""`pld serve` as a process of its own, which a test may kill and start again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

PATIENCE_S = 120.0


class Served:
    """arguments: of `pld serve`; port 0 takes a free one and keeps it for the next start."""

    def __init__(self, *arguments: str, port: int = 0) -> None:
        self._arguments, self.port = arguments, port
        self.lines: list[str] = []
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "pld_core.cli.main", "serve", *self._arguments, "--port", str(self.port)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        timer = threading.Timer(PATIENCE_S, self.process.kill)
        timer.start()
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("serving"):
                break
        timer.cancel()
        assert self.lines, "it said nothing"
        assert self.lines[-1].startswith("serving"), "".join(self.lines)
        self.port = int(self.lines[-1].rpartition(":")[2])
        self._reader = threading.Thread(target=self._read, daemon=True)  # or it stops when the pipe is full
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            self.lines.extend(output)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(PATIENCE_S)
        self._reader.join()
        return status
