"""Publishes a bag's topics with their timing, for RViz and the like; never into a graph that is running."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from pld_core.errors import ConfigError
from pld_ros.node import DISCOVERY_S, PldNode, run_node
from pld_ros.recording.bag_reader import BagReader

SLICE_S = 0.1  # it notices that it shall end within this time


class BagPlayer(PldNode):
    """Parameters: bag (its folder), rate (1: as recorded), loop (begin again at the end)."""

    def __init__(self) -> None:
        super().__init__("bag_player")
        self._path, self._rate = Path(self.setting("bag", "")), self.setting("rate", 1.0)
        self._loop = self.setting("loop", False)
        if not self._rate > 0:
            raise ConfigError(f"rate is {self._rate}; give a number greater than 0, 1.0 plays as recorded.")

    def work(self) -> None:
        with BagReader(self._path) as reader:
            self._refuse_company(reader)
            publishers = {topic: self._publisher(reader, topic, kind) for topic, kind in reader.topics.items()}
            self.set_ready()
            self._play(reader, publishers)
            while self._loop and rclpy.ok():
                self._play(reader, publishers)

    def _refuse_company(self, reader: BagReader) -> None:
        """Recorded states among live ones would mislead a controller."""
        time.sleep(DISCOVERY_S)
        if taken := [topic for topic in reader.topics if self.count_publishers(topic)]:
            raise ConfigError(
                f"{', '.join(taken)} is published already: a graph is running here. Stop it, or play the bag in "
                "another ROS domain (ROS_DOMAIN_ID)."
            )

    def _publisher(self, reader: BagReader, topic: str, kind: str) -> Publisher:
        package, _, name = kind.split("/")
        qos = QoSProfile(depth=reader.depth(topic), reliability=ReliabilityPolicy.RELIABLE)
        if reader.latched(topic):
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        return self.create_publisher(getattr(importlib.import_module(f"{package}.msg"), name), topic, qos)

    def _play(self, reader: BagReader, publishers: dict[str, Publisher]) -> None:
        began, first = time.monotonic(), None
        for topic, _, stamp, data in reader.raw():
            first = stamp if first is None else first
            due = began + (stamp - first) / 1e9 / self._rate
            while rclpy.ok() and (left := due - time.monotonic()) > 0:
                time.sleep(min(left, SLICE_S))
            if not rclpy.ok():
                return
            publishers[topic].publish(data)
            self.rates.count("messages")

    def diagnostics(self) -> dict[str, Any]:
        return {"bag": str(self._path), "rate": self._rate}


def main(args: Sequence[str] | None = None) -> int:
    return run_node(BagPlayer, args)


if __name__ == "__main__":
    sys.exit(main())
