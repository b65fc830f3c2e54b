"""The process that controls a Franka gets no processor for a while: what the arm does then, and how soon it is told.

What only a control box does is not shown here: it stops a moving arm by itself (communication_constraints_violation)
when commands are missing for 20 ms, which franky-sim does not.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from franka_tools import HOME_RAD, PATIENCE_S
from pulse import Pulse

from pld_ros.benches.franka_simulator import FrankaSimulator

pytest.importorskip("franky", reason="needs the extra 'franka'")

STARVED_S, DETECTION_S = 0.4, 0.15
LEAD_M = 0.03  # as far as a target may be ahead of the arm
FASTEST_M_S = 1.0  # 0.4 of the arm's own limit, 1.7 m/s, and what is left for the noise of times


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    with FrankaSimulator(joints_rad=HOME_RAD) as simulator:
        command = [sys.executable, str(Path(__file__).with_name("franka_child.py")), simulator.host]
        started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            yield started
        finally:
            started.kill()
            started.wait()
            assert started.stdout is not None
            started.stdout.close()


def said(child: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("{"):
            yield json.loads(line)


def test_the_controlling_process_gets_no_processor(child: subprocess.Popen[str]) -> None:
    words, heard = said(child), []
    while len(heard) < 20 or abs(heard[-1]["sent"]) < 0.01:
        heard.append(next(words))
        assert not heard[-1]["fault"], "the machine is too busy"
    with Pulse() as pulse:
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(STARVED_S)
        resumed_at = time.monotonic()
        os.kill(child.pid, signal.SIGCONT)
        heard += list(words)
    assert child.wait(PATIENCE_S) == 0
    after_recovery, seen = heard[-1], heard[:-1]
    before = [each for each in seen if each["at"] < resumed_at - STARVED_S][-1]
    after = [each for each in seen if each["at"] >= resumed_at]
    told = next(each for each in after if each["fault"])
    way_m = np.array([each["y"] for each in after]) - before["y"]
    steps_s = np.maximum(np.diff([each["at"] for each in after]), 0.015)
    fastest = float(np.max(np.abs(np.diff(way_m)) / steps_s))
    print(
        f"measured: no processor for {1e3 * STARVED_S:.0f} ms: told {1e3 * (told['at'] - resumed_at):.1f} ms after it "
        f"had one again (held up {1e3 * pulse.worst_s:.0f} ms); the arm had moved {1e3 * way_m[0]:.1f} mm by then, "
        f"rests {1e3 * way_m[-1]:.1f} mm from where it was, at most {fastest:.2f} m/s on the way: {told['fault']}"
    )
    assert told["at"] - resumed_at < DETECTION_S + pulse.worst_s
    assert "no time for the arm" in told["fault"] or "said nothing" in told["fault"]
    assert np.abs(way_m).max() < LEAD_M + 0.01, "it goes no further than to its last target"
    assert np.ptp(way_m[-20:]) < 1e-3, "it rests"
    assert fastest < FASTEST_M_S, "no burst"
    assert len({each["sent"] for each in after if each["fault"]}) == 1, "nothing is sent any more"
    assert after_recovery["refused"] > 10
    assert after_recovery["mode"] == "moving"
