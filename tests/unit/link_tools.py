"""Shared by the tests of the actor-learner link."""

from __future__ import annotations

import time

ANY_PORT = "tcp://127.0.0.1:*"


def wait_until(condition, timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
