"""A policy on the robot's machine, behind a websocket, and slow: what the controller's ticks get. Last line: JSON.

    python benchmarks/remote_policy.py --seconds 30

Each case is `pld launch sim_train` in real time (20 Hz, a new plan at every tick), with a policy whose actions say
which entry of their plan they are. ``missed``: ticks that began more than 10 ms late or not at all; ``held``: ticks
for which no plan had an entry left, so that the arm held; ``entry_mean``, ``entry_max``: how old plans were, 1 for one
that was made of what the tick has seen; ``latency_ms_p50``: from the newest capture to the command.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from policy_server import serving
from ros import run_graph
from ros_folder import count_run

from pld_core import bring
from pld_core.types import ActionChunk, Observation
from pld_ros.recording.bag_reader import recorded

DELAY_S = 0.15
HARVEST_ONLY = ("harvest.successes:=1000", "harvest.max_episodes:=1000")


class Counting:
    """The shipped CompactVLA, but for x of the n-th action of a chunk: n / 100, from 1 on."""

    version, delay_s = "counting", 0.0

    def __init__(self) -> None:
        self._policy = bring.base_policy("compact")
        self.action_horizon, self.feature_dim = self._policy.action_horizon, self._policy.feature_dim

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        time.sleep(self.delay_s)
        return [self._counted(chunk) for chunk in self._policy.infer(observations)]

    def _counted(self, chunk: ActionChunk) -> ActionChunk:
        actions = chunk.actions.copy()
        actions[:, 0] = np.arange(1, len(actions) + 1) / 100
        return dataclasses.replace(chunk, actions=actions, policy_version=self.version)


class SlowCounting(Counting):
    """With the time that a large network takes to think."""

    delay_s = DELAY_S


CASES = {
    "in_process": (Counting, False, True),
    "in_process_without_prefetch": (Counting, False, False),
    "websocket": (Counting, True, True),
    "websocket_without_prefetch": (Counting, True, False),
    "slow": (SlowCounting, True, True),
    "slow_without_prefetch": (SlowCounting, True, False),
}


def measure(case: str, seconds: float, run_dir: Path, domain: int | None) -> dict[str, float]:
    kind, remote, prefetch = CASES[case]
    name = f"{Path(__file__).stem}:{kind.__name__}"
    with serving(name) if remote else contextlib.nullcontext(name) as policy:
        settings = (f"policy:={policy}", f"prefetch:={str(prefetch).lower()}", *HARVEST_ONLY)
        run_graph(run_dir, seconds, domain, settings)
    counts = count_run(run_dir)
    episodes = [assembled.episode for _, assembled in recorded(run_dir)]
    entries = np.concatenate([np.rint(100 * episode.base_action[:-1, 0]) for episode in episodes])
    moved = entries[entries > 0]
    return {
        "ticks": len(entries),
        "missed": counts.missed,
        "held": int((entries == 0).sum()),
        "entry_mean": round(float(moved.mean()), 2) if moved.size else 0.0,
        "entry_max": int(entries.max()),
        "latency_ms_p50": counts.latency_ms_p50,
        "latency_ms_p99": counts.latency_ms_p99,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the JSON object and nothing else")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each case, from its first episode on")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--domain", type=int)
    options = parser.parse_args()
    here = str(Path(__file__).parent)  # where nodes and servers find this file's policies
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    report = {}
    for case in options.cases:
        with tempfile.TemporaryDirectory(prefix="pld_remote_policy_", ignore_cleanup_errors=True) as folder:
            report[case] = measure(case, options.seconds, Path(folder) / "run", options.domain)
        if not options.json:
            print(case, report[case], flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
