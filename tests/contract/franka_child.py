"""A controlling process of its own for a simulated Franka, for tests that take the processor away from it.

    python franka_child.py HOST

It drives the arm sideways at 20 Hz and says what it sees, a JSON object a line: ``at`` (monotonic seconds, the same
clock in all processes), ``y`` (metres), ``sent`` (metres commanded so far), ``fault``. After a fault it goes on
asking for motion, is refused (``refused``), and says what it sees for two seconds more; then it recovers and moves.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from franka_tools import driver_at, set_in_motion, state

from pld_core.errors import RobotError
from pld_ros.drivers.real_arm import RealArm

SIDEWAYS = np.array([0, 0.5, 0, 0, 0, 0], np.float32)
AFTER_S = 2.0


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def drive(driver: RealArm) -> int:
    """Until two seconds after a fault; how many commands were refused."""
    sent_m, direction, refused, told = 0.0, 1.0, 0, float("inf")
    due = time.monotonic()
    while time.monotonic() < told + AFTER_S:
        seen = driver.next_state(0.05)
        if seen is not None:
            say(at=time.monotonic(), y=float(seen.position[1]), sent=sent_m, fault=seen.fault)
            direction = -np.sign(seen.position[1]) if abs(seen.position[1]) > 0.1 else direction
            told = min(told, time.monotonic()) if seen.fault else told
        if time.monotonic() >= due:
            due = max(due + 0.05, time.monotonic())
            try:
                sent_m += 0.01 * float(driver.command(np.float32(direction) * SIDEWAYS, -1.0)[1])
            except RobotError:
                refused += 1
    return refused


def main(host: str) -> None:
    driver = driver_at(host)
    driver.connect()
    set_in_motion(driver)
    refused = drive(driver)
    driver.stop()
    driver.recover()
    set_in_motion(driver)
    say(refused=refused, mode=state(driver).mode)
    driver.close()


if __name__ == "__main__":
    main(sys.argv[1])
