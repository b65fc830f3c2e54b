"""What every node of PLD does: common parameters, health, diagnostics, one of its name only, a clean end."""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from pld_msgs.msg import Health
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from pld_core.errors import ConfigError, PLDError
from pld_core.stations import RobotConfig, TaskConfig, load_robot, load_task
from pld_ros import topics
from pld_ros.spinner import Spinner

HEALTH_PERIOD_S = 0.2
HEALTH_LOST_S = 1.0  # a node that was silent for so long counts as gone
DIAGNOSTICS_PERIOD_S = 1.0
END_AGAIN_S = 0.5
END_LIMIT_S = 20.0  # for a node to end, whatever hangs; more than a launcher's patience
DISCOVERY_S = 1.0  # how long a namesake on another machine has to show up
RHYTHM_PRIORITY = 50  # SCHED_FIFO, of what keeps the arm's rhythm
SENSE_PRIORITY = 40  # of what every tick waits for (cameras, policy, reward), and of who may stop the arm


class PldNode(Node):
    """Base of the nodes. Subclasses set ``ready`` and ``reason``, and count what ``diagnostics`` answers."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.robot = self.setting("robot", "fr3_sim")
        self.task = self.setting("task", "peg_insertion")
        self.run_dir = Path(self.setting("run_dir", "runs/ros"))
        self.simulated_time = self.setting("simulated_time", False)
        self.ready, self.reason, self.version = False, "starting", ""
        self.is_only_one = False  # no namesake was found
        self.inputs: list[str] = []  # topics that must have a publisher before the node counts as ready
        self.rates = Rates()
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # health goes on when simulated time stands still
        self._health = self.create_publisher(Health, topics.HEALTH, topics.HEALTHS)
        self._diagnostics = self.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, 10)
        self.create_timer(HEALTH_PERIOD_S, self._publish_health, clock=steady)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=steady)

    def setting(self, name: str, default: Any) -> Any:
        """Declare a parameter of the default's type and read it."""
        return self.declare_parameter(name, default).value

    @cached_property
    def station(self) -> RobotConfig:
        return load_robot(self.robot)

    @cached_property
    def task_config(self) -> TaskConfig:
        return load_task(self.task)

    @property
    def period_s(self) -> float:
        return 1.0 / self.station.rate_hz

    def now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def diagnostics(self) -> dict[str, Any]:
        """What ``/diagnostics`` shows of this node; override and add to it."""
        return {}

    def set_ready(self, reason: str = "", version: str | None = None) -> None:
        """Ready if there is nothing that it lacks."""
        if reason and reason != self.reason:
            self.get_logger().warning(reason)
        elif not reason and not self.ready:
            self.get_logger().info("ready")
        self.ready, self.reason = not reason, reason
        self.version = self.version if version is None else version

    def refuse_namesake(self) -> None:
        """Raise ConfigError if another node of this name is there already: two would fight for one arm.

        One on this machine is found for certain, one elsewhere if DDS tells of it within ``DISCOVERY_S``.
        """
        name, domain = self.get_fully_qualified_name(), os.environ.get("ROS_DOMAIN_ID", "0")
        running = ConfigError(
            f"A node {name} is running already (ROS_DOMAIN_ID {domain}). Stop that one, or use another namespace or "
            "domain."
        )
        digest = hashlib.sha256(f"{domain} {name}".encode()).hexdigest()  # names of sockets are short
        self._claim = socket.socket(socket.AF_UNIX)  # the kernel frees it when this process ends, however that is
        try:
            self._claim.bind(f"\0pld-node-{digest}")
        except OSError as taken:
            self._claim.close()
            raise running from taken
        deadline = time.monotonic() + DISCOVERY_S
        while time.monotonic() < deadline:
            known = [f"{space.rstrip('/')}/{each}" for each, space in self.get_node_names_and_namespaces()]
            if known.count(name) > 1:
                raise running
            time.sleep(0.1)

    def start(self) -> None:
        """What must not happen while a namesake may be running."""

    def close(self) -> None:
        """What must be ended in order before the process ends."""

    def lacks(self) -> str:
        """Why it cannot work now; empty when it can."""
        absent = [topic for topic in self.inputs if self.ready and not self.count_publishers(topic)]
        return f"nobody publishes {', '.join(absent)}" if absent else self.reason

    def _publish_health(self) -> None:
        reason = self.lacks()
        message = Health(node=self.get_name(), ready=not reason, reason=reason, version=self.version)
        message.header.stamp = self.get_clock().now().to_msg()
        self._health.publish(message)

    def say_goodbye(self) -> None:
        """Nobody is to count on it from now on, not even for the second that a silence may last."""
        self.ready, self.reason = False, "stopped"
        with contextlib.suppress(RuntimeError):  # rclpy is shut down already
            self._publish_health()

    def _publish_diagnostics(self) -> None:
        values = {**self.rates.rows(), **self.diagnostics()}
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if self.lacks() else DiagnosticStatus.OK,
            name=self.get_fully_qualified_name().lstrip("/"),
            message=self.lacks() or "ok",
            hardware_id=self.station.name,
            values=[KeyValue(key=key, value=_shown(value)) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


class Rates:
    """How often things happen: count, rate over the last period, age. Any thread may count."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._last: dict[str, float] = {}
        self._shown: dict[str, int] = {}
        self._shown_at = time.monotonic()

    def count(self, name: str, by: int = 1) -> None:
        self._counts[name] = self._counts.get(name, 0) + by
        self._last[name] = time.monotonic()

    def total(self, name: str) -> int:
        return self._counts.get(name, 0)

    def rows(self) -> dict[str, Any]:
        """``{"<name>": count, "<name>_hz": rate since the last call, "<name>_age_ms": since the last one}``."""
        now = time.monotonic()
        elapsed, self._shown_at = max(now - self._shown_at, 1e-6), now
        rows: dict[str, Any] = {}
        for name, count in list(self._counts.items()):
            rows[name] = count
            rows[f"{name}_hz"] = round((count - self._shown.get(name, 0)) / elapsed, 2)
            rows[f"{name}_age_ms"] = round(1e3 * (now - self._last[name]), 1)
            self._shown[name] = count
        return rows


class HealthWatch:
    """Hears every node's health and says what is missing."""

    def __init__(self, node: Node) -> None:
        self._heard: dict[str, tuple[float, Health]] = {}
        node.create_subscription(Health, topics.HEALTH, self._hear, topics.HEALTHS)

    def _hear(self, message: Health) -> None:
        self._heard[message.node] = (time.monotonic(), message)

    def silent_s(self, node: str) -> float:
        heard = self._heard.get(node)
        return float("inf") if heard is None else time.monotonic() - heard[0]

    def version(self, node: str) -> str:
        return self._heard[node][1].version if node in self._heard else ""

    def missing(self, nodes: Sequence[str]) -> str:
        """Why not all of these nodes are ready; empty if they are."""
        for node in nodes:
            if self.silent_s(node) > HEALTH_LOST_S:
                return f"{node} is not running"
            message = self._heard[node][1]
            if not message.ready:
                return f"{node} is not ready: {message.reason}"
        return ""


def run_node(make: Callable[[], PldNode], args: Sequence[str] | None = None, priority: int = 0) -> int:
    """``main`` of every node: exit status 0 after a signal, 2 with one clear line after a known error.

    A process that has not ended ``END_LIMIT_S`` after a signal shows what its threads are at, and ends with status 1.

    A node with a method ``work()`` runs that on the main thread (it ends when ``rclpy.ok()`` does), its
    callbacks on another; any other node only answers callbacks. priority: SCHED_FIFO's, where the
    environment's PLD_REAL_TIME is 1.
    """
    rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _end)
    if priority and os.environ.get("PLD_REAL_TIME") == "1":
        real_time_priority(priority)
    node: PldNode | None = None
    try:
        node = make()
        node.refuse_namesake()
        node.is_only_one = True
        node.start()
        _work(node)
        return 0
    except (_Ended, ExternalShutdownException):
        return 0
    except PLDError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except Exception as error:
        if _is_end(error):
            return 0
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        if node is not None:
            with contextlib.suppress(_Ended):
                if node.is_only_one:
                    node.say_goodbye()
                node.close()
                node.destroy_node()
        rclpy.try_shutdown()


_asked_to_end = False


class _Ended(BaseException):
    """A signal asked the process to end."""


def _end(number: int, frame: Any) -> None:
    global _asked_to_end
    if not _asked_to_end:  # a middleware that hangs while it closes hears no signal: show where, and go
        faulthandler.dump_traceback_later(END_LIMIT_S, exit=True, file=2)  # the descriptor: sys.stderr may be another
    _asked_to_end = True
    signal.setitimer(signal.ITIMER_REAL, END_AGAIN_S)  # Python drops what is raised while a destructor runs
    raise _Ended


def _is_end(error: Exception) -> bool:
    """Whether it stands for ``_Ended``: pybind11 makes this of what is raised while it converts something."""
    return _asked_to_end and isinstance(error, (RuntimeError, TypeError)) and str(error).startswith("Unable to convert")


def _work(node: PldNode) -> None:
    work = getattr(node, "work", None)
    if work is None:
        rclpy.spin(node)
        return
    spinner = Spinner(node)
    try:
        work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)  # or the second signal cuts this short
        spinner.close()
        if spinner.fault is not None:
            raise spinner.fault


def real_time_priority(priority: int) -> bool:
    """SCHED_FIFO for this thread and those it will start, where that is permitted; says so where it is not."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (OSError, AttributeError) as error:
        print(f"warning: no real-time priority ({error}); ticks may come late. See docs/ros.md.", file=sys.stderr)
        return False
    return True


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
