"""ROS tests use the real rclpy, on a DDS domain of their own, and leave no shared memory behind."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pld_ros import shared_memory
from pld_ros.environment import prepare_this_process

DOMAIN = os.getpid() % 100 + 1
prepare_this_process(DOMAIN)  # before anything imports rclpy; processes that tests start inherit it

from caught_node import Node  # noqa: E402

from pld_ros.control.ros_body import RosBody  # noqa: E402


@pytest.fixture(scope="session")
def domain() -> int:
    """The DDS domain of this test session, so that two sessions on one machine do not meet."""
    return DOMAIN


@pytest.fixture(scope="session", autouse=True)
def _no_leftovers_in_shared_memory() -> Iterator[None]:
    yield
    shared_memory.remove_dead_files()  # of the processes that tests killed on purpose
    mapped = Path("/proc/self/maps").read_text().splitlines()
    # A deleted one was another process's, and goes with this one.
    open_still = [line.split()[5] for line in mapped if "/dev/shm/fast" in line and not line.endswith("(deleted)")]
    assert not open_still, f"a test has not shut rclpy down, these are still open: {open_still}"


@pytest.fixture
def link_addresses() -> dict[str, str]:
    """Settings for an actor-learner link on ports that nobody uses."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        records, weights = one.getsockname()[1], other.getsockname()[1]
    return {"ros.records_address": f"tcp://127.0.0.1:{records}", "ros.weights_address": f"tcp://127.0.0.1:{weights}"}


@pytest.fixture
def node() -> Node:
    """Where messages are handed in and commands caught."""
    return Node()


@pytest.fixture
def body(node: Node) -> RosBody:
    """The controller's eyes and hands on it."""
    made = RosBody(node)  # type: ignore[arg-type]
    made.take_command()
    return made
