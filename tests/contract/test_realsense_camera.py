"""RealSenseCamera over the real pipeline, which plays a recording."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

pytest.importorskip("pyrealsense2", reason="needs the extra 'realsense'")

from camera_driver_contract import RecordedCameraContract
from camera_tools import FPS, HEIGHT, WIDTH

from pld_core.errors import ConfigError, RobotUnavailableError
from pld_core.stations import CameraConfig
from pld_ros.benches.recordings import moving_picture, number_of, record_realsense, steady
from pld_ros.drivers import make_camera, realsense
from pld_ros.drivers.realsense import RealSenseCamera, connected


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> CameraConfig:
    path = tmp_path_factory.mktemp("realsense") / "steady.db3"
    record_realsense(path, steady(1.5, FPS, HEIGHT, WIDTH), FPS)
    return CameraConfig("realsense", recording=str(path), width=WIDTH, height=HEIGHT, fps=FPS)


class TestRealSenseCamera(RecordedCameraContract):
    unsettled = 10  # by then the two clocks are known well

    def test_pictures_arrive_as_they_were_taken(self, camera):
        for _ in range(5):
            image = self.frame(camera).image
            assert np.array_equal(image, moving_picture(number_of(image), HEIGHT, WIDTH))  # red is red, up is up

    def test_a_recording_of_another_size_is_fitted(self):
        camera = make_camera(dataclasses.replace(self.config, width=64, height=64))
        camera.open()
        image = self.frame(camera).image
        camera.close()
        assert image.shape == (64, 64, 3)
        slope = image[12, :, 2]
        assert slope[0] == pytest.approx(255 * 20 / WIDTH, abs=3)  # the middle of the picture, 20 pixels narrower
        assert slope[-1] == pytest.approx(255 * 140 / WIDTH, abs=3)

    def test_several_cameras_at_once(self):
        cameras = [make_camera(self.config) for _ in range(3)]
        for camera in cameras:
            camera.open()
        assert all(self.frame(camera) for _ in range(10) for camera in cameras)
        for camera in cameras:
            camera.close()


def test_no_device_is_connected():
    if connected():
        pytest.skip("a RealSense camera is connected")
    with pytest.raises(RobotUnavailableError, match="No RealSense camera is connected"):
        RealSenseCamera(CameraConfig("realsense")).open()


def test_a_device_that_disappears_before_the_start():
    """librealsense itself would wait 15 s for it, and hold up every thread."""
    request = realsense.rs.config()
    request.enable_device("000000000000")
    request.enable_stream(realsense.rs.stream.color, WIDTH, HEIGHT, realsense.rs.format.rgb8, FPS)
    began_s = time.monotonic()
    with pytest.raises(RobotUnavailableError, match="unplugged just now"):
        realsense._Pipeline(request, "Camera")
    took_s = time.monotonic() - began_s
    print(f"measured: a device that is missing at the start: refused after {1e3 * took_s:.0f} ms")
    assert took_s < 5.0


def test_a_recording_that_is_not_there(tmp_path):
    with pytest.raises(RobotUnavailableError, match=r"no recording .*missing\.db3"):
        RealSenseCamera(CameraConfig("realsense", recording=str(tmp_path / "missing.db3"))).open()


def test_a_recording_that_was_cut_off(config, tmp_path):
    path = tmp_path / "cut.db3"
    with open(config.recording, "rb") as whole:
        path.write_bytes(whole.read(20_000))
    with pytest.raises(RobotUnavailableError, match="cannot be used"):
        RealSenseCamera(CameraConfig("realsense", recording=str(path))).open()


def test_a_recording_without_colour(tmp_path):
    pictures = [dataclasses.replace(each, colour=False) for each in steady(0.2, FPS, HEIGHT, WIDTH)]
    path = record_realsense(tmp_path / "depth.db3", pictures, FPS, depth=True)
    with pytest.raises(ConfigError, match="no colour, only depth"):
        RealSenseCamera(CameraConfig("realsense", recording=str(path))).open()


def test_only_what_pyrealsense_plays_is_recorded(tmp_path):
    with pytest.raises(ConfigError, match=r"ends in \.db3"):
        record_realsense(tmp_path / "name.bag", steady(0.1, FPS, HEIGHT, WIDTH))
