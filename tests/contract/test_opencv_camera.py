"""OpenCVCamera over a real video file and a real network stream; no machine of ours has a /dev/video."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("cv2", reason="needs the extra 'opencv'")

from camera_driver_contract import CameraDriverContract, RecordedCameraContract
from camera_tools import FPS, HEIGHT, WIDTH, free_port, jpeg_server

from pld_core.errors import RobotUnavailableError
from pld_core.stations import CameraConfig
from pld_ros.benches.recordings import record_video, steady
from pld_ros.drivers import make_camera


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> CameraConfig:
    path = record_video(tmp_path_factory.mktemp("video") / "steady.mp4", steady(1.5, FPS, HEIGHT, WIDTH), FPS)
    return CameraConfig("opencv", recording=str(path), width=WIDTH, height=HEIGHT, fps=FPS)


class TestVideoFile(RecordedCameraContract):
    def test_red_is_red(self, camera):
        image = self.frame(camera).image
        red = (image[..., 0] > 180) & (image[..., 1] < 70) & (image[..., 2] < 70)
        assert abs(red.sum() - (HEIGHT // 4) ** 2) < 150

    def test_a_video_as_serial(self):
        camera = make_camera(dataclasses.replace(self.config, serial=self.config.recording, recording=""))
        camera.open()
        self.frame(camera)
        camera.close()


class TestNetworkStream(CameraDriverContract):
    size = (HEIGHT, WIDTH)
    fps = FPS

    @pytest.fixture(autouse=True)
    def _server(self):
        with jpeg_server() as server:
            self.url = server.url
            yield

    def make_camera(self):
        return make_camera(CameraConfig("opencv", serial=self.url, width=WIDTH, height=HEIGHT, fps=FPS))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"serial": "97"}, "no camera /dev/video97"),
        ({"serial": "/dev/v4l/by-id/mine"}, "no camera /dev/v4l/by-id/mine"),
        ({"recording": "missing.mp4"}, r"no video missing\.mp4"),
        ({"recording": "text.mp4"}, r"text\.mp4 cannot be opened"),
        ({"serial": f"http://127.0.0.1:{free_port()}/none"}, "cannot be opened: is its server running"),
    ],
)
def test_what_is_not_there(given, message, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(RobotUnavailableError, match=message):
        make_camera(CameraConfig("opencv", **given)).open()
