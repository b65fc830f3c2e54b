"""What a station needs of its computer: real-time priority and a clock that can be trusted."""

from __future__ import annotations

import ctypes
import getpass
import os
import time
from pathlib import Path

from pld_core.cli.checks import Check
from pld_core.stations import RobotConfig

RHYTHM_PRIORITY = 50  # SCHED_FIFO, as the nodes ask for
LIMITS_FILE = "/etc/security/limits.d/99-realtime.conf"
STEP_S = 0.010  # a clock that is slewed, by 500 ppm at most, needs 20 s for that
_REAL_TIME_KERNEL = Path("/sys/kernel/realtime")
_NOT_SYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)


def check_priority(station: RobotConfig) -> Check:
    """Whether SCHED_FIFO is permitted; leaves this thread's priority as it was."""
    is_franka = station.driver == "franka"
    wanted = os.sched_get_priority_max(os.SCHED_FIFO) if is_franka else RHYTHM_PRIORITY  # libfranka wants the highest
    refusal = _refusal(wanted)
    if refusal:
        line = f"{getpass.getuser()} - rtprio {wanted}"
        return Check(
            "real-time priority",
            "warning",
            f"this user may not have priority {wanted} (SCHED_FIFO: {refusal}): ticks come late on a busy machine",
            f"put the line '{line}' into {LIMITS_FILE}: "
            f"echo '{line}' | sudo tee -a {LIMITS_FILE}; then log out and in again",
        )
    detail = f"priority {wanted} is permitted"
    if is_franka and not _has_real_time_kernel():
        detail += ", but the kernel is none for real time: the Franka may stop with communication_constraints_violation"
        return Check(
            "real-time priority",
            "warning",
            detail,
            "boot a PREEMPT_RT kernel (Ubuntu: sudo pro enable realtime-kernel)",
        )
    return Check("real-time priority", "ok", detail)


def _refusal(priority: int) -> str:
    """Why this process may not have it; empty where it may."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return error.strerror or str(error)
    os.sched_setscheduler(0, *before)
    return ""


def _has_real_time_kernel() -> bool:
    try:
        return _REAL_TIME_KERNEL.read_text().strip() == "1"
    except OSError:
        return False


class ClockWatch:
    """Notices whether the system clock was set between now and ``check``: stamps are made of it."""

    def __init__(self) -> None:
        self._offset_s, self._since_s = _offset_s(), time.monotonic()

    def check(self) -> Check:
        return judge_clock(_offset_s() - self._offset_s, time.monotonic() - self._since_s, _is_synchronised())


def judge_clock(step_s: float, seconds: float, synchronised: bool | None) -> Check:
    """step_s: by how much the system clock ran ahead of the monotonic one in so many seconds."""
    steady = f"ran steadily for {seconds:.0f} s ({1e3 * step_s:+.2f} ms against the monotonic clock)"
    if abs(step_s) > STEP_S:
        detail = (
            f"the system clock was set by {1e3 * step_s:+.0f} ms within these {seconds:.0f} s: stamps are wrong by that"
        )
        fix = "let chrony or systemd-timesyncd finish (chronyc waitsync), and end whatever else sets the clock"
        return Check("clock", "problem", detail, fix)
    if synchronised:
        return Check("clock", "ok", f"synchronised, {steady}")
    detail = (
        f"{'not synchronised' if synchronised is False else 'it cannot be told whether it is synchronised'}, {steady}"
    )
    fix = "sudo timedatectl set-ntp true; matters where several machines stamp, and for the dates of recordings"
    return Check("clock", "warning", detail, fix)


def _offset_s() -> float:
    """System time minus monotonic time; the pair that was read fastest."""
    pairs = []
    for _ in range(5):
        before, now, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        pairs.append((after - before, now - (before + after) // 2))
    return min(pairs)[1] / 1e9


def _is_synchronised() -> bool | None:
    """As the kernel says, to whom chrony, ntpd and timesyncd tell it; None where it may not be asked."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex((ctypes.c_char * 256)())  # all zero: only asks
    except (AttributeError, OSError):
        return None
    return None if state < 0 else state != _NOT_SYNCHRONISED
