"""The real node graph for a while: rhythm, latency, lost frames and transitions. `pld bench ros` runs this program.

It is `pld launch sim_train task:=peg_insertion` in real time with its learner, in a folder of its own, and is
stopped after that time. Only how long it harvests and warms up is cut short, so that the learner learns in
the time that is measured. What is counted is in the run's folder, so that any other run counts the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ros_counts import Counts
from ros_folder import count_run

from pld_core.errors import ConfigError, PLDError
from pld_ros.environment import require_messages
from pld_ros.launching.child import STARTER

SHORTENED = ("harvest.successes:=1", "harvest.max_episodes:=8", "learn.warmup_episodes:=2")
FIRST_EPISODE_S = 600.0  # a base policy may have to be made first
STOP_S = 60.0
POLL_S = 0.2


def run_graph(run_dir: Path, seconds: float, domain: int | None, settings: Sequence[str] = SHORTENED) -> None:
    """Launch, let it work for so long from its first episode on, and stop it in order. Raises PLDError."""
    require_messages()
    if run_dir.exists():
        raise ConfigError(f"{run_dir} exists already: the benchmark needs a new folder for its run.")
    log = run_dir / "logs" / "launch.log"
    log.parent.mkdir(parents=True)
    records, weights = _free_ports()
    arguments = [
        "sim_train", "task:=peg_insertion", f"run_dir:={run_dir}", *settings,
        f"records_address:=tcp://127.0.0.1:{records}", f"weights_address:=tcp://127.0.0.1:{weights}",
    ]  # fmt: skip
    if domain is not None:
        arguments.append(f"domain:={domain}")
    starter = [sys.executable, str(STARTER), str(os.getpid()), "0"]  # the graph ends with this process
    with log.open("wb") as out:
        launcher = subprocess.Popen(
            [*starter, sys.executable, "-m", "pld_core.cli.main", "launch", *arguments],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_for_an_episode(run_dir, launcher, log)
        _sleep(seconds, launcher, log)
    finally:
        _stop(launcher)


def _wait_for_an_episode(run_dir: Path, launcher: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + FIRST_EPISODE_S
    while not any((run_dir / "bags").glob("*/*.mcap")) and not any((run_dir / "bags" / ".open").glob("*/*.mcap")):
        if time.monotonic() > deadline:
            raise PLDError(f"No episode began within {FIRST_EPISODE_S:.0f} s. {_end_of(log)}")
        _sleep(POLL_S, launcher, log)


def _sleep(seconds: float, launcher: subprocess.Popen[bytes], log: Path) -> None:
    """Raises PLDError if the graph ends meanwhile."""
    try:
        status = launcher.wait(seconds)
    except subprocess.TimeoutExpired:
        return
    raise PLDError(f"The graph ended too early (exit status {status}). {_end_of(log)}")


def _stop(launcher: subprocess.Popen[bytes]) -> None:
    if launcher.poll() is None:
        launcher.send_signal(signal.SIGINT)
    try:
        launcher.wait(STOP_S)
    except subprocess.TimeoutExpired:
        launcher.kill()  # its guardian ends the nodes
        launcher.wait()


def _end_of(log: Path) -> str:
    return "Its log ends with: " + " | ".join(log.read_text(errors="replace").strip().splitlines()[-5:])


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def measure(seconds: float, run_dir: Path | None, domain: int | None) -> Counts:
    """run_dir: a new folder that is kept; None: one that is deleted."""
    if run_dir is not None:
        run_graph(run_dir.absolute(), seconds, domain)
        return count_run(run_dir)
    with tempfile.TemporaryDirectory(prefix="pld_bench_ros_", ignore_cleanup_errors=True) as folder:
        run_graph(Path(folder) / "run", seconds, domain)
        return count_run(Path(folder) / "run")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="nothing else is ever printed")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--run", type=Path, help="count this finished run instead")
    parser.add_argument("--run_dir", type=Path, help="where to keep the run")
    parser.add_argument("--domain", type=int)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the graph is stopped in order
    try:
        counts = count_run(options.run) if options.run else measure(options.seconds, options.run_dir, options.domain)
    except PLDError as error:
        print(f"error: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    print(json.dumps(vars(counts)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
