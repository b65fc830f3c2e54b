"""``pld doctor --robot NAME``: a station, from its file to a test motion. The usage is pld_core.cli.doctor's."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pld_core.cli.checks import Check, as_json, healthy, show, show_verdict
from pld_core.cli.common import only_json, take_flag, take_option
from pld_core.errors import PLDError, UnknownNameError
from pld_core.interfaces import RobotDriver
from pld_core.stations import RobotConfig, load_robot
from pld_core.types import RobotState
from pld_ros.checkup import arm, cameras, drawn_cameras, machine, motion, place
from pld_ros.checkup.interrupts import Interrupts

SECONDS = 2.0  # for which the arm's states, and then the cameras' frames, are counted
_INTERRUPTED = 130
Result = TypeVar("Result")
_FLAGS = ("--robot", "--confirm-motion", "--json")
_WIDTH = len("real-time priority")  # the longest name but for those of cameras


@dataclass
class Examination:
    """Checks of one station, told as they come. note: takes what is to be read before something happens."""

    tell: Callable[[Check], None]
    note: Callable[[str], None]
    interrupts: Interrupts
    checks: list[Check] = field(default_factory=list)

    def run(self, name: str, moves: bool) -> list[Check]:
        station = self._attempt("station", lambda: load_robot(name), "correct it as said")
        if station is None:
            return self.checks
        self._add(Check("station", "ok", _summary(station)))
        self._add(machine.check_priority(station))
        clock = machine.ClockWatch()
        # First, and let go of: to load and open them takes time that an arm in the same process would miss.
        self._cameras(lambda: cameras.check_cameras(station, SECONDS))
        driver = self._attempt("driver", lambda: arm.driver_of(station), "correct it as said")
        if driver is None:
            return self.checks
        try:
            state = self._arm(station, driver)
            self._cameras(lambda: drawn_cameras.check_drawn(station, state))
            self._add(clock.check())
            if moves:
                self._motion(station, driver)
        finally:
            with self.interrupts.held_back():
                self._let_go(driver)
        return self.checks

    def _arm(self, station: RobotConfig, driver: RobotDriver) -> RobotState | None:
        """Connect it, look at it; its newest state."""
        if warning := arm.forewarning(station):
            self.note(warning)
        with self.interrupts.held_back():
            connection = arm.connect(driver, station)
        self._add(connection)
        if connection.status == "problem":
            return None
        with self.interrupts.held_back():
            seen = self._attempt("states", lambda: arm.collect(driver, SECONDS), "check its power and its cable")
        if seen is None:
            return None
        state = seen[-1].state
        judgements: list[tuple[str, Callable[[], Check | None]]] = [
            ("states", lambda: arm.judge_states(station, seen)),
            ("stops and faults", lambda: arm.judge_status(state)),
            ("workspace", lambda: place.check_tool(station, state)),
            ("start pose", lambda: place.check_home(station, state)),
        ]
        for title, judge in judgements:
            if check := self._attempt(title, judge, "correct it as said"):
                self._add(check)
        return state

    def _cameras(self, look: Callable[[], list[Check]]) -> None:
        self._add(*(self._attempt("cameras", look, "correct it as said") or []))

    def _motion(self, station: RobotConfig, driver: RobotDriver) -> None:
        if not healthy(self.checks):
            problems = ", ".join(check.name for check in self.checks if check.status == "problem")
            self._add(Check("motion", "problem", f"not done, nothing moved: {problems}", "fix what is above first"))
            return
        keep_on = self.interrupts.raise_what_came
        with self.interrupts.held_back():  # in the middle of a command, a lock of the driver might stay closed
            done = self._attempt(
                "motion", lambda: motion.check_motion(driver, station, self.note, keep_on), "look at the arm first"
            )
        self._add(*([] if done is None else [done]))

    def _let_go(self, driver: RobotDriver) -> None:
        for step in (driver.hold, driver.close):  # whatever the first comes to
            self._attempt("disconnecting", step, "look at the arm: is it at rest?")

    def _attempt(self, name: str, step: Callable[[], Result], fix: str) -> Result | None:
        """What ``step`` returns; what it raises becomes a problem: a doctor must not die of its patient."""
        try:
            return step()
        except PLDError as error:
            self._add(Check(name, "problem", str(error), fix))
        except Exception as error:
            self._add(Check(name, "problem", f"the check failed: {type(error).__name__}: {error}"))
        return None

    def _add(self, *checks: Check) -> None:
        for check in checks:
            self.checks.append(check)
            self.tell(check)


def run(args: Sequence[str]) -> int:
    """Exit status 0, 1 where there is a problem, 130 where it was interrupted."""
    name, rest = take_option(args, "--robot")
    wants_json, rest = take_flag(rest, "--json")
    moves, rest = take_flag(rest, "--confirm-motion")
    if rest or name is None:
        raise UnknownNameError("argument", rest[0] if rest else "", _FLAGS, "See `pld doctor --help`.")
    out = sys.stdout
    with only_json(wants_json, out), Interrupts() as interrupts:
        width = _WIDTH
        examination = Examination(lambda check: show(check, width), _print_note, interrupts)
        try:
            checks = examination.run(name, moves)
        except KeyboardInterrupt:
            print("\nInterrupted: the arm was told to hold, and was let go of.", file=sys.stderr)
            return _INTERRUPTED
        if wants_json:
            print(as_json(checks), file=out)
        else:
            show_verdict(checks, f"pld doctor --robot {name}", "the station can be worked with")
    return 0 if healthy(checks) else 1


def _print_note(text: str) -> None:
    """On the error stream, where it is seen with --json too."""
    sys.stdout.flush()
    lines = textwrap.wrap(f"NOTE: {text}", max(40, shutil.get_terminal_size((100, 24)).columns))
    print("\n".join(["", *lines, ""]), file=sys.stderr, flush=True)


def _summary(station: RobotConfig) -> str:
    cameras = ", ".join(f"{name} ({camera.driver})" for name, camera in station.cameras.items()) or "none"
    return (
        f"{station.name}: {station.driver}, {station.rate_hz:.0f} Hz, {1e3 * station.translation_m:.0f} mm and "
        f"{station.rotation_rad:.2f} rad a tick; cameras: {cameras}"
    )
