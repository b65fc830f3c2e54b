"""Publishes cameras: real ones through their driver, simulated ones drawn from the simulator's state."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rclpy
from pld_msgs.msg import SimulatorState
from sensor_msgs.msg import CameraInfo, Image

from pld_core.errors import ConfigError
from pld_core.stations import CameraConfig
from pld_core.types import Frame
from pld_ros import topics
from pld_ros.convert import image_msg, nanoseconds
from pld_ros.drivers import make_camera
from pld_ros.drivers.sim_camera import SimCameras
from pld_ros.node import SENSE_PRIORITY, PldNode, run_node
from pld_ros.pictures import policy_view

READ_TIMEOUT_S = 0.1


class CameraNode(PldNode):
    """One real camera, or all simulated ones (which share their scene and are drawn together)."""

    def __init__(self) -> None:
        super().__init__("camera")
        given = list(self.setting("cameras", [""]))
        self._cameras = {name: self._config(name) for name in given if name} or dict(self.station.cameras)
        make, names = self.create_publisher, list(self._cameras)
        self._images = {name: make(Image, topics.camera_image(name), topics.OBSERVATION) for name in names}
        self._infos = {name: make(CameraInfo, topics.camera_info(name), topics.SENSOR) for name in names}
        self._raw = {
            name: make(Image, topics.camera_raw(name), topics.SENSOR)
            for name, camera in self._cameras.items()
            if (camera.height, camera.width) != (camera.policy_size, camera.policy_size)
        }
        simulated = [camera.driver == "simulated" for camera in self._cameras.values()]
        if any(simulated) and not all(simulated):
            raise ConfigError(f"Cameras {sorted(self._cameras)} are partly simulated: give each kind its own node.")
        if all(simulated):
            self._draw = SimCameras(self.task)
            self._drawn: tuple[np.ndarray, Mapping[str, np.ndarray]] | None = None
            self.create_subscription(SimulatorState, topics.SIMULATOR_STATE, self._render, topics.OBSERVATION)
            self.inputs.append(topics.SIMULATOR_STATE)
            self.set_ready()
        else:
            self.work = self._read  # a driver waits for its device: the main thread's business

    def _config(self, name: str) -> CameraConfig:
        if name not in self.station.cameras:
            raise ConfigError(
                f"Station {self.station.name} has no camera {name!r}; it has {list(self.station.cameras)}."
            )
        return self.station.cameras[name]

    # -- simulated -------------------------------------------------------------------------------

    def _render(self, message: SimulatorState) -> None:
        snapshot, stamp = np.array(message.snapshot), nanoseconds(message.header.stamp)
        drawn = self._drawn
        if drawn is None or not np.array_equal(drawn[0], snapshot):
            drawn = self._drawn = snapshot, self._draw.render(snapshot)
        for name in self._cameras:
            self._publish(name, Frame(stamp, drawn[1][name]))

    # -- real ------------------------------------------------------------------------------------

    def _read(self) -> None:
        (name, config), *others = self._cameras.items()
        if others:
            raise ConfigError(f"A node reads one real camera; {sorted(self._cameras)} were given. Start one node each.")
        camera = make_camera(config)
        camera.open()
        reason = ""  # why there are no frames
        try:
            while rclpy.ok():
                frame = camera.read(READ_TIMEOUT_S)
                if frame is None:
                    self.rates.count("timeouts")
                    fault = getattr(camera, "fault", "") or f"it delivered no frame for {READ_TIMEOUT_S} s"
                    reason = reason or f"camera {name}: {fault}"  # its first word: how long it has been silent changes
                    self.set_ready(reason)
                else:
                    self._publish(name, frame)
                    reason = ""
                    self.set_ready()
        finally:
            camera.close()

    def _publish(self, name: str, frame: Frame) -> None:
        if name in self._raw:
            self._raw[name].publish(image_msg(frame.image, frame.stamp_ns, f"camera_{name}"))
        seen = image_msg(policy_view(frame.image, self._cameras[name]), frame.stamp_ns, f"camera_{name}")
        self._images[name].publish(seen)
        info = CameraInfo(header=seen.header, height=seen.height, width=seen.width)
        self._infos[name].publish(info)
        self.rates.count(f"published_{name}")

    def diagnostics(self) -> dict[str, Any]:
        return {"cameras": ", ".join(self._cameras)}


def main(args: Sequence[str] | None = None) -> int:
    return run_node(CameraNode, args, SENSE_PRIORITY)


if __name__ == "__main__":
    sys.exit(main())
