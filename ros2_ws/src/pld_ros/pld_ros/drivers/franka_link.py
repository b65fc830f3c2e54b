"""The two connections to a Franka, arm and hand: each has a thread of its own, and nobody waits for it.

Most calls of franky return within a millisecond, but with a robot that died some block for a second, and others
until the robot's side hangs up. One thread per connection makes all of its calls, keeps the newest measurement at
hand, and keeps whatever was raised until somebody asks.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from pld_core.errors import RobotError, RobotFaultError, RobotUnavailableError

log = logging.getLogger(__name__)


def library() -> Any:
    """The module franky; raises RobotUnavailableError where it is not installed."""
    try:
        import franky
    except ImportError as error:
        raise RobotUnavailableError(
            f"Driver 'franka' needs franky: {error}. Install it: pip install 'pld[franka]'. An arm with older "
            "firmware, and every Panda, needs the wheel of franky-control that is made for it (see franky's FAQ)."
        ) from error
    return franky


def translated(error: Exception, address: str) -> RobotError:
    """What franky raised, as one of this project's errors; its exceptions have no base class in common."""
    if isinstance(error, RobotError):
        return error
    kind = type(error).__name__
    if kind == "NetworkException":
        return RobotUnavailableError(
            f"no connection to the Franka at {address or '(no address)'}: {error} Check its power, the cable and the "
            "address, that the brakes are open and FCI is active in Desk, and that no other program holds the arm"
        )
    if kind == "IncompatibleVersionException":
        return RobotUnavailableError(
            f"the Franka at {address} speaks another protocol than the installed franky: {error} Install the wheel "
            "of franky-control that is made for its firmware (see franky's FAQ)"
        )
    if type(error) is RuntimeError:  # of franky's planner: a target that the arm cannot reach, or a lost connection
        return RobotFaultError(
            f"franky gave up the motion: {error}. The target cannot be reached, or the connection is gone; shrink "
            "workspace_m if this comes again"
        )
    return RobotFaultError(
        f"the Franka stopped ({kind}): {error} Free the arm if it touches something, and look at Desk"
    )


class Link:
    """A thread that opens a device, works on it in a rhythm, and leaves it."""

    period_s = 0.004

    def __init__(self, address: str, name: str) -> None:
        self._address = address
        self._wake, self._opened = threading.Event(), threading.Event()
        self._ended = False
        self._failure: RobotError | None = None  # to open
        self._thread = threading.Thread(target=self._run, name=f"franka {name}", daemon=True)
        self.fault = ""  # the first thing that went wrong since it was opened

    def start(self, timeout_s: float) -> None:
        """Raises RobotError where the device cannot be opened within ``timeout_s``."""
        self._thread.start()
        if not self._opened.wait(timeout_s):
            self._ended = True
            raise RobotUnavailableError(
                f"The Franka at {self._address} took the connection and said nothing for {timeout_s:.0f} s. Is "
                "another program connected? Otherwise restart the control box"
            )
        if self._failure is not None:
            raise self._failure

    def end(self, timeout_s: float) -> bool:
        """Ask the thread to end; whether it has."""
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            device = self._open()
        except Exception as error:
            # Without its traceback, whose frames would keep the connection open.
            self._failure = translated(error, self._address).with_traceback(None)
            return
        finally:
            self._opened.set()
        while not self._ended:
            self._wake.wait(self.period_s)
            self._wake.clear()
            try:
                self._cycle(device)
            except Exception as error:
                self._fail(error)
        try:
            self._leave(device)
        except Exception as error:
            log.warning("While leaving: %s", translated(error, self._address))

    def _fail(self, error: Exception) -> None:
        self.fault = self.fault or str(translated(error, self._address))

    def _open(self) -> Any:
        raise NotImplementedError

    def _cycle(self, device: Any) -> None:
        raise NotImplementedError

    def _leave(self, device: Any) -> None:
        raise NotImplementedError
