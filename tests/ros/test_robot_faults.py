"""What the operator sees when a real arm's driver loses its arm: the Franka's, in the real graph. docs/faults.md.

The arm is franky-sim behind libfranka's network protocol, the cameras are videos, all nodes are processes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ear import Heard
from pld_msgs.srv import EStop
from pulse import Pulse
from station import Running, Station
from test_faults import assert_goes_on, assert_kept, measured

from pld_core.config import config_root
from pld_core.types import Episode, EpisodeSpec
from pld_ros import topics
from pld_ros.benches.franka_simulator import FrankaSimulator
from pld_ros.benches.recordings import record_video, steady

pytest.importorskip("franky", reason="needs the extra 'franka'")
pytest.importorskip("cv2", reason="needs the extra 'opencv'")
pytestmark = pytest.mark.slow

DRIVER_S, TOLD_S = 0.15, 0.15  # until the driver knows, and from then until the graph does
STARVED_S = 0.5  # of the controller
TICK_S = 0.05
FPS = 10  # enough for these faults, and leaves the machine to the arm


class ArmStation(Station):
    """Recovers, as a person would, from what a busy machine does to an arm at rest: a fault that stays."""

    def settled(self) -> None:
        """All are ready."""
        self.ready(*(name for name in self.nodes if name != "robot"))
        self._recovered_until(lambda: not self.ear.health.missing(["robot"]), "the arm is ready")
        self.ready()

    def begun(self, spec: EpisodeSpec) -> Running:
        data = self.order(spec)
        return Running(self._recovered_until(lambda: self.episode_of(spec), f"{spec} runs"), spec, data)

    def running(self, ticks: int = 5) -> Running:
        for _ in self.attempts():
            try:
                return super().running(ticks)
            except AssertionError as spoilt:  # franky's planner gives up a motion now and then, too
                if "reports a fault" not in str(spoilt):
                    raise
                self.recover()
                self.settled()

    def estop(self, stop: bool) -> Any:
        """By the operator's node, as from the terminal."""
        return self.ear.ask(EStop, topics.OPERATOR_ESTOP, EStop.Request(stop=stop))

    def recover(self) -> None:
        self.estop(True)
        self.wait(lambda: self.estop(False).ok, "the release succeeds")

    def _recovered_until(self, condition: Callable[[], Any], what: str) -> Any:
        for _ in self.attempts():
            self.wait(lambda: condition() or self._is_at_fault(), what)
            if found := condition():
                return found
            self.recover()

    def _is_at_fault(self) -> bool:
        reason = self.ear.health.missing(["robot"])
        return "no time for the arm" in reason or "said nothing" in reason


@pytest.fixture(scope="module")
def simulator() -> Iterator[FrankaSimulator]:
    with FrankaSimulator(joints_rad=_shipped()["home_joints_rad"]) as started:
        yield started


@pytest.fixture(scope="module")
def station(simulator: FrankaSimulator, tmp_path_factory: pytest.TempPathFactory, domain: int) -> Iterator[ArmStation]:
    folder = tmp_path_factory.mktemp("robot_faults")
    station = ArmStation(folder, folder / "run", domain, robot=str(station_file(folder, simulator.host)))
    try:
        station.start(*station.nodes)
        station.settled()
        yield station
    finally:
        station.close()


@pytest.fixture
def diagnostics(station: ArmStation) -> list[Heard]:
    """What the robot node says of itself from now on."""
    heard: list[Heard] = []

    def hear(message: DiagnosticArray) -> None:
        heard.extend(Heard(time.monotonic(), status) for status in message.status if status.name.endswith("robot"))

    station.ear.node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, hear, 10)
    return heard


def station_file(folder: Path, host: str) -> Path:
    """The shipped station of the Franka at this address, with videos in place of its cameras."""
    settings = _shipped()
    video = record_video(folder / "scene.mp4", steady(4.0, FPS, 128, 160), FPS)
    camera = {"driver": "opencv", "recording": str(video), "width": 160, "height": 128, "fps": FPS, "max_age_ms": 250}
    settings |= {"address": host, "cameras": {name: camera for name in settings["cameras"]}}
    path = folder / "franka_test.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def _shipped() -> dict[str, Any]:
    return yaml.safe_load((config_root() / "robots" / "franka_fr3.yaml").read_text())


def finish(station: ArmStation, spec: EpisodeSpec, order: Future[Episode]) -> None:
    """The episode of an order that waited for the arm runs, and the operator ends it."""
    episode_id = station.wait(lambda: station.episode_of(spec), "it begins")
    station.wait(lambda: station.steps(episode_id)[5:] or station.outcome(episode_id), "it runs")
    station.finished(Running(episode_id, spec, order))


def starve(station: ArmStation) -> tuple[float, float, float]:
    """Take the processor from the controller for a while: when it stood still, the arm held, and it went on."""
    before = station.ear.states[-1].message.held
    stopped = station.signal("controller", signal.SIGSTOP)
    held = station.first_state(stopped, lambda state: state.held > before, "the arm is told to hold")
    time.sleep(max(0.0, stopped + STARVED_S - time.monotonic()))
    return stopped, held.at, station.signal("controller", signal.SIGCONT)


def test_a_controller_that_gets_no_processor(station: ArmStation) -> None:
    """Everybody else goes on as ever; the arm is told to hold, and nobody learns from what was spoilt."""
    for _ in station.attempts():
        running = station.running()
        stopped, held, resumed = starve(station)
        outcome = station.ended(running)
        if "controller itself" in outcome.message.reason:
            break
        print(f"again: {outcome.message.reason}")  # a busy machine has spoilt it in another way before
        assert "a fault" in outcome.message.reason or station.is_load(outcome.message.reason)
        station.recover()
        station.settled()
    measured("controller starved: the arm is told to hold", held - stopped)
    measured(f"controller starved for {resumed - stopped:.2f} s: void, since it went on,", outcome.at - resumed)
    assert "controller itself came too late" in outcome.message.reason
    assert_kept(station, running)
    station.first_state(outcome.at, lambda state: state.mode == "holding", "the arm rests")
    assert_goes_on(station)


def test_what_the_operator_sees_when_the_arm_is_gone(
    station: ArmStation, simulator: FrankaSimulator, diagnostics: list[Heard]
) -> None:
    running = station.running()
    assert station.first_state(0.0, lambda state: state.mode == "moving", "it moves")
    with Pulse() as pulse:
        killed = time.monotonic()
        os.kill(simulator.pid, signal.SIGKILL)
        told = station.first_state(killed, lambda state: state.mode == "fault", "robot/state says fault")
    measured("arm gone: robot/state says so", told.at - killed)
    assert "said nothing" in told.message.fault
    assert told.at - killed < DRIVER_S + TOLD_S + pulse.worst_s

    outcome = station.ended(running)
    measured("arm gone: the episode is void", outcome.at - killed)
    reason = outcome.message.reason
    if outcome.at > told.at + TICK_S:  # else its silence, or a busy machine, may have voided it before
        assert "reports a fault: the arm has said nothing" in reason
    assert "reports a fault: the arm has said nothing" in reason or station.is_load(reason)
    assert_kept(station, running)
    shown = station.wait(
        lambda: [heard for heard in diagnostics if "said nothing" in heard.message.message], "it shows"
    )
    measured("arm gone: /diagnostics shows it", shown[0].at - killed)
    assert shown[0].message.level != DiagnosticStatus.OK
    assert {heard.message.mode for heard in station.states_since(told.at)} == {"fault"}, "it is told again and again"

    spec = station.spec()
    order = station.order(spec)
    assert "said nothing" in station.wait(station.waits_for, "nothing begins")
    assert station.estop(True).ok
    answer = station.estop(False)
    assert not answer.ok, "there is no arm yet"
    assert "no connection to the Franka" in answer.message
    simulator.kill()
    simulator.start()
    began = time.monotonic()
    station.wait(lambda: station.estop(False).ok, "the release succeeds")
    measured("arm back: the release is answered", time.monotonic() - began)
    station.first_state(began, lambda state: not state.fault, "the fault is over")
    finish(station, spec, order)
    assert_goes_on(station)
