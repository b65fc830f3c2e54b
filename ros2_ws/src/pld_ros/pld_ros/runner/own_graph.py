"""The nodes of a station, started for one learner: what `pld train --runner ros` does without --ros.attach."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pld_core.config import TrainConfig
from pld_core.errors import RobotUnavailableError
from pld_ros.launching.child import STARTER
from pld_ros.launching.process import Process
from pld_ros.launching.supervisor import KILLED_S

STOP_STEPS = 3  # the supervisor ends the controller, the other nodes and the arm one after the other
STOP_S = STOP_STEPS * (2 * Process.patience_s + KILLED_S) + 6.0  # and its guardian


class OwnGraph:
    """`pld launch` without a learner, as a child process; it ends with this process whatever happens."""

    def __init__(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
        """arguments: see ``launch_arguments``; environment: what the nodes get besides this process's."""
        self.log = folder / "logs" / "launch.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(STARTER), str(os.getpid()), "0", sys.executable, "-m", "pld_core.cli.main"]
        command += ["launch", "sim_train", *arguments]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, **(environment or {})},
            )  # fmt: skip

    def check(self) -> None:
        """Raise RobotUnavailableError if the nodes are not kept running any more."""
        status = self._process.poll()
        if status is not None:
            tail = self.log.read_text(errors="replace").strip().splitlines()[-3:]
            raise RobotUnavailableError(f"The nodes have ended (exit status {status}). {self.log} ends with: {tail}")

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def launch_arguments(config: TrainConfig, folder: Path, policy: str) -> list[str]:
    """What the nodes must know of a run, as `pld launch` takes it."""
    arguments = {
        "learner": False, "robot": config.robot, "task": config.task, "realtime": config.ros.realtime,
        "run_dir": folder.absolute(), "reward": config.reward, "policy": policy,
        "records_address": config.ros.records_address, "weights_address": config.ros.weights_address,
        "ready_timeout_s": config.ros.ready_timeout_s,
    }  # fmt: skip
    return [f"{name}:={_text(value)}" for name, value in arguments.items()]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
