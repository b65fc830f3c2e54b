"""Writes every episode as a bag and feeds the learner; see ``logbook`` for what happens when."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from pld_msgs.msg import EpisodeStatus, OperatorState, PolicyStep, RobotState, SimulatorState, SuccessEstimate
from pld_msgs.srv import Label
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image, JointState

from pld_core.errors import ContractError, StorageError
from pld_core.storage import storage_errors
from pld_ros import topics
from pld_ros.convert import image_array, nanoseconds
from pld_ros.node import HealthWatch, PldNode, run_node
from pld_ros.recording.bag_shelf import BagShelf
from pld_ros.recording.bag_types import Topic, qos_profile
from pld_ros.recording.logbook import Logbook
from pld_ros.recording.outbox import Outbox
from pld_ros.recording.records import outcome_of_message, row_of_message

POLL_S = 0.05
LOOK_S = 0.5  # how often it looks at disk and controller
CONTROLLER_LOST_S = 3.0
_LABELS = {Label.Request.SUCCESS: "success", Label.Request.FAILURE: "failure", Label.Request.VOID: "void"}


class ReplayLogger(PldNode):
    """Parameters: records_address of the learner (empty: none), bags, label_window_s (how long an outcome
    waits for the operator's verdict), disk_reserve_mb (less free room than this, and no episode starts)."""

    def __init__(self) -> None:
        super().__init__("replay_logger")
        address = self.setting("records_address", "tcp://127.0.0.1:5757")
        with_bags = self.setting("bags", True)
        window_s = self.setting("label_window_s", 0.0)
        self._reserve_bytes = self.setting("disk_reserve_mb", 64.0) * 1e6
        with storage_errors(self.run_dir):
            self.run_dir.mkdir(parents=True, exist_ok=True)
        self._heard = self._topics()
        names = {topic: self.resolve_topic_name(topic) for topic in self._heard}
        described = [Topic(names[topic], _name(kind), qos_profile(qos)) for topic, (kind, qos) in self._heard.items()]
        self._step_topic, self._status_topic = names[topics.STEP], names[topics.EPISODE]
        own = (self._step_topic, self._status_topic)
        self.shelf = BagShelf(self.run_dir / "bags", described, own) if with_bags else None
        self.outbox = Outbox(address, self.run_dir, self.get_name())
        self.logbook = Logbook(self.run_dir, list(self.station.cameras), self.outbox.send, self.shelf, window_s)
        self._watch, self._controller_at = HealthWatch(self), time.monotonic()
        self._connect(names)
        self._look()

    def _topics(self) -> dict[str, tuple[type, QoSProfile]]:
        """All that is recorded."""
        heard: dict[str, tuple[type, QoSProfile]] = {
            topics.STEP: (PolicyStep, topics.RECORD),
            topics.EPISODE: (EpisodeStatus, topics.EPISODES),
            topics.SUCCESS: (SuccessEstimate, topics.STATE),
            topics.ROBOT_STATE: (RobotState, topics.STATE),
            topics.JOINT_STATES: (JointState, topics.SENSOR),
            topics.OPERATOR_STATE: (OperatorState, topics.LATCHED),
            **{topics.camera_image(name): (Image, topics.OBSERVATION) for name in self.station.cameras},
        }
        if self.station.is_simulated:
            heard[topics.SIMULATOR_STATE] = (SimulatorState, topics.OBSERVATION)
        return heard

    def _connect(self, names: dict[str, str]) -> None:
        """Messages come as bytes, which go into the bag as they are."""
        cameras = {topics.camera_image(name): name for name in self.station.cameras}
        for topic, (kind, qos) in self._heard.items():
            if topic == topics.STEP:
                hear: Any = self._on_step
            elif topic == topics.EPISODE:
                hear = self._on_status
            elif topic in cameras:
                hear = partial(self._on_image, names[topic], cameras[topic])
            else:
                hear = partial(self._keep, names[topic])
            self.create_subscription(kind, topic, hear, qos, raw=True)
        self.inputs = [topics.STEP, topics.EPISODE, topics.ROBOT_STATE, *cameras]
        self.create_service(Label, topics.LATE_LABEL, self._on_label)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self.create_timer(POLL_S, self._poll, clock=steady)
        self.create_timer(LOOK_S, self._look, clock=steady)

    # -- heard -----------------------------------------------------------------------------------

    def _on_step(self, data: bytes) -> None:
        message, self._controller_at = deserialize_message(data, PolicyStep), time.monotonic()
        self.logbook.step(row_of_message(message), partial(self._write, self._step_topic, data))

    def _on_status(self, data: bytes) -> None:
        message, self._controller_at = deserialize_message(data, EpisodeStatus), time.monotonic()
        if message.state in (EpisodeStatus.RUNNING, EpisodeStatus.PAUSED, EpisodeStatus.DONE):
            write = partial(self._write, self._status_topic, data)
            self.logbook.status(outcome_of_message(message), message.state == EpisodeStatus.DONE, write)

    def _on_image(self, topic: str, camera: str, data: bytes) -> None:
        message = deserialize_message(data, Image)
        self._keep(topic, data)
        try:
            self.logbook.frame(camera, nanoseconds(message.header.stamp), image_array(message))
        except ContractError as error:
            self.get_logger().error(f"camera {camera}: {error}", throttle_duration_sec=5.0)

    def _keep(self, topic: str, data: bytes) -> None:
        if self.shelf is not None:
            self.shelf.hear(topic, data)

    def _write(self, topic: str, data: bytes, episode_id: str) -> None:
        if self.shelf is not None:
            self.shelf.write(episode_id, topic, time.time_ns(), data)

    def _on_label(self, request: Label.Request, response: Label.Response) -> Label.Response:
        try:
            response.ok, response.message = self.logbook.label(request.episode_id, _LABELS[request.label])
        except KeyError:
            response.message = f"label is {request.label}; valid: 0 success, 1 failure, 2 void"
        except StorageError as error:
            response.message = str(error)
        self.get_logger().info(f"verdict: {response.message}")
        return response

    # -- now and then ----------------------------------------------------------------------------

    def _poll(self) -> None:
        self.logbook.poll()

    def _controller_silent_s(self) -> float:
        """Its health may take seconds to be discovered by a logger that has just begun; what it does is a word, too."""
        return min(self._watch.silent_s("controller"), time.monotonic() - self._controller_at)

    def _look(self) -> None:
        if self.logbook.running and self._controller_silent_s() > CONTROLLER_LOST_S:
            self.logbook.void_running("controller lost")
        self.outbox.drain()
        if self.shelf is not None:
            self.shelf.recover()
        reason = self._full() or self.outbox.fault or self._deaf()
        if reason != self.reason or self.ready == bool(reason):
            self.set_ready(reason)

    def _full(self) -> str:
        if self.shelf is not None and self.shelf.fault:
            return f"disk full: {self.shelf.fault}"
        free = self._free_bytes()
        if free >= self._reserve_bytes:
            return ""
        return f"disk full: {free / 1e6:.0f} MB free at {self.run_dir}, {self._reserve_bytes / 1e6:.0f} MB are needed"

    def _deaf(self) -> str:
        """A camera that is discovered need not be connected yet: only its first frame shows that it is."""
        silent = [camera for camera, count in self.logbook.joiner.received.items() if not count]
        return f"no frame of {', '.join(silent)} has come yet" if silent else ""

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.run_dir).free

    def diagnostics(self) -> dict[str, Any]:
        book = self.logbook
        return {
            "steps": book.steps,
            "steps_missed": book.steps_missed,
            **{f"frames_{camera}": count for camera, count in book.joiner.received.items()},
            "frames_missed": book.joiner.missed,
            "episodes": book.episodes,
            "voided": book.voided,
            **self.outbox.diagnostics(),
            "bytes_written": self.shelf.bytes_written if self.shelf is not None else 0,
            "disk_free_mb": self._free_bytes() // 10**6,
        }

    def close(self) -> None:
        self.logbook.close()
        if self.shelf is not None:
            self.shelf.close()
        self.outbox.close()


def _name(kind: Any) -> str:
    """``sensor_msgs/msg/Image``."""
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def main(args: Sequence[str] | None = None) -> int:
    return run_node(ReplayLogger, args)


if __name__ == "__main__":
    sys.exit(main())
