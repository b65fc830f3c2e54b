"""An arm along a Lissajous path, 20 deltas a second: how well it follows, and how well the rhythm is kept."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager

import numpy as np

from pld_core.errors import RobotError
from pld_core.interfaces import RobotDriver

SPEED_M_S = 0.1  # at its fastest
SIZE_M = np.array([0.06, 0.08, 0.04])  # from the middle to the ends
LAPS = np.array([2.0, 3.0, 4.0])  # per round, of each axis
MISSED_S = 0.005
SETTLING_S, SETTLED_S, AT_MOST_S = 2.0, 0.5, 30.0
STILL_M = 2e-5  # in SETTLED_S
_STATE_S = 0.5
_PRIORITY = 50


def path(seconds: float) -> np.ndarray:
    """Offset from the middle ``[3]`` [m] after so long; begins and ends each round there."""
    fastest = float(np.linalg.norm(SIZE_M * LAPS))  # metres per radian, at the crossing in the middle
    return SIZE_M * np.sin(LAPS * seconds * SPEED_M_S / fastest)


class Watcher:
    """The newest measured position of an arm, on a thread of its own."""

    def __init__(self, driver: RobotDriver) -> None:
        self._driver, self._ended = driver, threading.Event()
        self.fault: RobotError | None = None
        self.position = self._next()
        self._thread = threading.Thread(target=self._watch, name="states", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _next(self) -> np.ndarray:
        state = self._driver.next_state(_STATE_S)
        if state is None or state.fault:
            raise RobotError(f"The arm says: {state.fault if state else 'nothing'}.")
        return state.position

    def _watch(self) -> None:
        try:
            while not self._ended.is_set():
                self.position = self._next()
        except RobotError as fault:
            self.fault = fault


def drive(
    driver: RobotDriver,
    seconds: float,
    progress: Callable[[int], None] = lambda tick: None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, float]:
    """Reset a connected arm and send it along the path. Raises RobotError where it reports a fault or falls silent.

    ticks sent; missed: those that began more than 5 ms after they were due; call_ms: what a command takes the caller;
    late_ms: how late ticks began, by what commands overran as well; track_mm: between where the deltas led and where
    the arm is at that moment; final_mm: the same, two seconds after the last and once it is at rest (a simulator on a
    busy machine takes longer). clock: monotonic seconds; sleep: seconds. Tests inject theirs.
    """
    driver.reset(0)
    rate_hz, scale_m = driver.spec().rate_hz, driver.spec().translation_m
    with Watcher(driver) as watcher, real_time():
        goal = watcher.position.copy()
        calls, late, track = [], [], []
        wanted = start = clock()  # when a tick is due, and when it can begin
        for tick in range(round(seconds * rate_hz)):
            sleep(max(0.0, start - clock()))
            began = clock()
            late.append(began - wanted)
            track.append(float(np.linalg.norm(goal - watcher.position)))
            step = path((tick + 1) / rate_hz) - path(tick / rate_hz)
            sent = driver.command(np.append(step / scale_m, np.zeros(3)).astype(np.float32), 1.0)
            calls.append(clock() - began)
            goal = goal + scale_m * sent[:3].astype(np.float64)
            wanted = start + 1.0 / rate_hz
            start = max(wanted, clock())  # after an overrun, no burst: those to come are due later
            progress(tick + 1)
            if watcher.fault is not None:
                raise watcher.fault
        settle(watcher, clock, sleep)
        final = float(np.linalg.norm(goal - watcher.position))
    if watcher.fault is not None:  # an arm that is dead is at rest as well
        raise watcher.fault
    return {
        "ticks": len(calls),
        "missed": int((np.array(late) > MISSED_S).sum()),
        **spread("call_ms", calls),
        **spread("late_ms", late),
        **spread("track_mm", track),
        "final_mm": round(1e3 * final, 3),
    }


def settle(watcher: Watcher, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
    """Wait until the arm is at rest."""
    sleep(SETTLING_S)
    give_up, before = clock() + AT_MOST_S, watcher.position
    while clock() < give_up:
        sleep(SETTLED_S)
        moved, before = float(np.linalg.norm(watcher.position - before)), watcher.position
        if moved < STILL_M:
            return


def spread(name: str, seconds_or_metres: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and largest, in thousandths."""
    p50, p99, worst = 1e3 * np.percentile(seconds_or_metres, (50, 99, 100))
    return {f"{name}_p50": round(p50, 3), f"{name}_p99": round(p99, 3), f"{name}_max": round(worst, 3)}


@contextmanager
def real_time():
    """SCHED_FIFO for this thread where that is permitted."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except OSError as error:
        print(f"no real-time priority ({error}); ticks may come late")
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)
