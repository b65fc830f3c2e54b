"""The process that controls a Franka gets no processor for a while: what the arm does then, and how soon it is told.

What only a control box does is not shown here: it stops a moving arm by itself (communication_constraints_violation)
when commands are missing for 20 ms. franky-sim does not, and obeys the leap to its target by which franky then makes
up for the lost time.
"""

from __future__ import annotations

import contextlib
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
from franka_tools import PATIENCE_S, sideways, state, wait_for
from pulse import Pulse, attempts

from pld_ros.benches.franka_simulator import FrankaSimulator
from pld_ros.drivers.franka import FrankaArm
from pld_ros.drivers.franka_robot import RobotLink
from pld_ros.drivers.real_arm import RealArm

pytest.importorskip("franky", reason="needs the extra 'franka'")

STARVED_S, DETECTION_S, RESTS_S = 0.4, 0.15, 1.0
LEAP_M = 0.1  # 0.03 to its target, and the way to come to rest from that speed; a stop that was planned took 0.55


@contextlib.contextmanager
def controlling(simulator: FrankaSimulator) -> Iterator[subprocess.Popen[str]]:
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


def moving(words: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is said until the arm has moved for a while, or a busy machine has made a fault of it."""
    heard = [next(words)]
    while not heard[-1]["fault"] and (len(heard) < 20 or abs(heard[-1]["sent"]) < 0.01):
        heard.append(next(words))
    return heard


def test_time_that_is_lost_at_rest_is_no_fault_and_in_motion_is_one(calm: RealArm) -> None:
    """As the thread that serves the arm sees it: without a motion there is none to leap."""
    calm.reset(0)
    assert isinstance(calm.arm, FrankaArm)
    robot = calm.arm._links()[0]
    wait_for(lambda: robot.arrived is not None, "the way home has ended")
    lose_time(robot)
    assert not state(calm).fault
    sideways(calm, 5)
    lose_time(robot)
    wait_for(lambda: "no time for the arm" in state(calm).fault, "it is told")


def lose_time(robot: RobotLink) -> None:
    """More than the driver allows, several times, as its thread may be writing the same."""
    for _ in range(20):
        robot._cycled_at -= 10.0
        time.sleep(0.01)


def test_the_controlling_process_gets_no_processor(simulator: FrankaSimulator) -> None:
    with Pulse() as pulse:
        for _ in attempts(pulse):
            with controlling(simulator) as child:
                words = said(child)
                heard = moving(words)
                if heard[-1]["fault"]:
                    continue
                began = time.monotonic()
                os.kill(child.pid, signal.SIGSTOP)
                time.sleep(STARVED_S)
                resumed_at = time.monotonic()
                os.kill(child.pid, signal.SIGCONT)
                heard += list(words)
                assert child.wait(PATIENCE_S) == 0
                break
    held_up_s = pulse.worst_since(began)
    after_recovery, seen = heard[-1], heard[:-1]
    before = [each for each in seen if each["at"] < resumed_at - STARVED_S][-1]
    after = [each for each in seen if each["at"] >= resumed_at]
    told = next(each for each in after if each["fault"])
    way_m = np.array([each["y"] for each in after]) - before["y"]
    print(
        f"measured: no processor for {1e3 * STARVED_S:.0f} ms: told {1e3 * (told['at'] - resumed_at):.1f} ms after it "
        f"had one again (held up {1e3 * held_up_s:.0f} ms); the arm had moved {1e3 * way_m[0]:.1f} mm by then, "
        f"rests {1e3 * way_m[-1]:.1f} mm from where it was: {told['fault']}"
    )
    assert told["at"] - resumed_at < DETECTION_S + held_up_s
    assert "no time for the arm" in told["fault"] or "said nothing" in told["fault"]
    assert np.abs(way_m).max() < LEAP_M
    rested = [y for y, each in zip(way_m, after, strict=True) if each["at"] > told["at"] + RESTS_S]
    assert np.ptp(rested) < 1e-3, "it rests"
    assert len({each["sent"] for each in after if each["fault"]}) == 1, "nothing is sent any more"
    assert after_recovery["refused"] > 10
    assert after_recovery["mode"] == "moving"
