"""A station that only talks: it tells recorded episodes as controller, robot and camera would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import yaml
from pld_msgs.msg import EpisodeStatus, Health, PolicyStep, RobotState
from pld_msgs.srv import Label
from rclpy.node import Node
from recorded import outcome_of_episode, rows_of
from sensor_msgs.msg import Image

from pld_core.link import RecordReceiver
from pld_core.types import Episode
from pld_ros import topics
from pld_ros.convert import floats, image_msg, put_stamps, spec_msg, time_msg
from pld_ros.node import HealthWatch
from pld_ros.recording.assembler import Assembled, EpisodeAssembler
from pld_ros.recording.records import Outcome, StepRow
from pld_ros.spinner import Spinner

with warnings.catch_warnings():  # of lark, which rclpy imports with the first node
    warnings.simplefilter("ignore", DeprecationWarning)
    import rosidl_generator_py  # noqa: F401

PATIENCE_S = 20.0  # a test that waits longer has failed
STATION = {
    "driver": "simulated",
    "proprio": ["x", "y", "goal_x", "goal_y"],
    "cameras": {"top": {"driver": "simulated", "policy_size": 32}},
}


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError(f"not within {PATIENCE_S} s: {what}")


class Station(Node):
    def __init__(self) -> None:
        super().__init__("station")
        self.steps = self.create_publisher(PolicyStep, topics.STEP, topics.RECORD)
        self.statuses = self.create_publisher(EpisodeStatus, topics.EPISODE, topics.EPISODES)
        self.images = self.create_publisher(Image, topics.camera_image("top"), topics.OBSERVATION)
        self.states = self.create_publisher(RobotState, topics.ROBOT_STATE, topics.STATE)
        self.health = self.create_publisher(Health, topics.HEALTH, topics.HEALTHS)
        self.labels = self.create_client(Label, topics.LATE_LABEL)
        self.watch = HealthWatch(self)

    def wait_for_logger(self, ready: bool = True) -> None:
        heard_by = (self.steps, self.statuses, self.images, self.states)
        wait_until(lambda: all(p.get_subscription_count() for p in heard_by), "the logger listens")
        wait_until(lambda: self._idle() == ready, "the logger's health is as wanted")

    def _idle(self) -> bool:
        """The camera repeats itself while nothing happens; whether the logger is ready."""
        time.sleep(0.02)
        self.images.publish(image_msg(np.zeros((32, 32, 3), np.uint8), 1, "top"))
        return self.missing() == ""

    def missing(self) -> str:
        return self.watch.missing(["replay_logger"])

    def alive(self) -> None:
        """As if the controller's health had come."""
        self.health.publish(Health(node="controller", ready=True))

    def begin(self, outcome: Outcome) -> None:
        self.alive()
        self.statuses.publish(self._status(EpisodeStatus.RUNNING, outcome))

    def end(self, outcome: Outcome) -> None:
        status = self._status(EpisodeStatus.DONE, outcome)
        status.ticks, status.last_sequence = outcome.ticks, outcome.last_sequence
        for flag in ("terminated", "truncated", "success", "voided", "environment_success", "reason"):
            setattr(status, flag, getattr(outcome, flag))
        self.statuses.publish(status)

    def see(self, row: StepRow) -> None:
        for frame in row.images.values():
            self.images.publish(image_msg(frame, row.stamps["top"], "top"))

    def tell(self, row: StepRow) -> None:
        message = PolicyStep(
            episode_id=row.episode_id, sequence=row.sequence, tick=row.tick, closing=row.closing,
            proprio=floats(row.proprio), state=floats(row.state), base_action=floats(row.base_action),
            residual=floats(row.residual), action=floats(row.action), reward=row.reward, success=row.success,
            source=row.source, intervention=row.intervention, weights_version=row.weights_version,
        )  # fmt: skip
        put_stamps(message, row.stamps)
        self.steps.publish(message)

    def label(self, label: int, episode_id: str = "") -> tuple[bool, str]:
        future = self.labels.call_async(Label.Request(episode_id=episode_id, label=label))
        wait_until(future.done, "the logger answers")
        answer: Any = future.result()
        return answer.ok, answer.message

    def _status(self, state: int, outcome: Outcome) -> EpisodeStatus:
        status = EpisodeStatus(
            state=state, episode_id=outcome.episode_id, spec=spec_msg(outcome.spec), instruction=outcome.instruction,
            policy_version=outcome.policy_version, weights_version=outcome.weights_version,
            first_sequence=outcome.first_sequence,
        )  # fmt: skip
        status.header.stamp = time_msg(time.time_ns())
        return status


class Learner:
    """The other end of the link."""

    def __init__(self) -> None:
        self.receiver = RecordReceiver("tcp://127.0.0.1:0")
        self.assembler = EpisodeAssembler()
        self.records: list[dict[str, Any]] = []
        self.done: dict[str, Assembled] = {}

    @property
    def address(self) -> str:
        return self.receiver.address

    def episode(self, episode_id: str) -> Assembled:
        wait_until(lambda: self._receive() or episode_id in self.done, f"the learner has {episode_id}")
        return self.done[episode_id]

    def step(self, sequence: int) -> None:
        """Wait for a step."""
        wait_until(lambda: self._receive() or sequence in self.sequences, f"the learner has step {sequence}")

    @property
    def sequences(self) -> set[int]:
        return {record["sequence"] for record in self.records if record["kind"] == "step"}

    def _receive(self) -> None:
        received = self.receiver.receive(0.05)
        if received is not None:
            self.records.append(received.record)
            received.acknowledge()
            for assembled in self.assembler.add(received.record):
                self.done[assembled.report.episode_id] = assembled

    def close(self) -> None:
        self.receiver.close()


class Rig:
    """rclpy, a station on a thread of its own, and a learner. parameters: of nodes in this process."""

    def __init__(self, folder: Path, run_dir: Path, **parameters: Any) -> None:
        station = folder / "station.yaml"
        station.write_text(yaml.safe_dump(STATION))
        self.run_dir, self.learner = run_dir, Learner()
        given = {
            "robot": str(station), "run_dir": str(run_dir), "records_address": self.learner.address,
            "disk_reserve_mb": 0.1, **parameters,
        }  # fmt: skip
        self.arguments = ["--ros-args"]
        for name, value in given.items():
            self.arguments += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
        rclpy.init(args=self.arguments)
        self.station = Station()
        self._spinners = [Spinner(self.station)]
        self._nodes: list[Any] = [self.station]

    def logger(self) -> Any:
        """A logger in this process, listening and ready."""
        from pld_ros.nodes.replay_logger import ReplayLogger

        node = ReplayLogger()
        self._nodes.append(node)
        self._spinners.append(Spinner(node))
        self.station.wait_for_logger()
        return node

    def play(self, episode: Episode, episode_id: str, first: int = 1) -> None:
        """The whole episode, as fast as the logger can take it: queues of subscriptions are finite."""
        self.station.begin(outcome_of_episode(episode, episode_id, first))
        for row in rows_of(episode, episode_id, first):
            self.station.see(row)
            self.station.tell(row)
            if row.tick % 8 == 7:
                self.learner.step(row.sequence)
        self.station.end(outcome_of_episode(episode, episode_id, first))

    def bag(self, episode_id: str) -> Path:
        place = self.run_dir / "bags" / episode_id
        wait_until((place / "metadata.yaml").exists, f"the bag of {episode_id} is finished")
        return place

    def close(self) -> None:
        for spinner in self._spinners:
            spinner.close()
        for node in self._nodes:
            if hasattr(node, "close"):
                node.close()
            node.destroy_node()
        self.learner.close()
        rclpy.try_shutdown()


class LoggerProcess:
    """A replay logger that can be killed."""

    def __init__(self, rig: Rig) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pld_ros.nodes.replay_logger", *rig.arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        rig.station.wait_for_logger()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_S)
