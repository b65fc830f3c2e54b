"""Fills an ObservationBuffer from the topics of robot and cameras."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pld_msgs.msg import RobotState
from sensor_msgs.msg import Image

from pld_ros import topics
from pld_ros.convert import image_array, nanoseconds, vector
from pld_ros.node import PldNode
from pld_ros.observations import PROPRIO, ObservationBuffer


def subscribe(
    node: PldNode,
    arrived: Callable[[], None] = lambda: None,
    on_state: Callable[[RobotState], None] = lambda message: None,
) -> ObservationBuffer:
    """A buffer that the node's callbacks keep filled; ``arrived`` is called after each new piece of data."""
    # In simulated time all sources carry the very same stamp.
    buffer = ObservationBuffer(list(node.station.cameras), 0.0 if node.station.is_simulated else 50.0)

    def picture(camera: str, message: Image) -> None:
        node.rates.count(f"received_{camera}")
        buffer.put(camera, nanoseconds(message.header.stamp), image_array(message))
        arrived()

    def state(message: RobotState) -> None:
        node.rates.count("received_states")
        on_state(message)
        buffer.put(PROPRIO, nanoseconds(message.header.stamp), vector(message.proprio))
        arrived()

    for camera in node.station.cameras:
        node.create_subscription(Image, topics.camera_image(camera), partial(picture, camera), topics.OBSERVATION)
    node.create_subscription(RobotState, topics.ROBOT_STATE, state, topics.STATE)
    node.inputs += [topics.ROBOT_STATE, *map(topics.camera_image, node.station.cameras)]
    return buffer
