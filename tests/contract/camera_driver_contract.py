"""What every camera driver must do, as a mixin.

Subclass ``CameraDriverContract`` as ``TestMine`` and let ``make_camera`` return yours, not open, of something
that moves.
"""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from camera_tools import FPS, HEIGHT, WIDTH

from pld_core.errors import RobotError
from pld_core.interfaces import CameraDriver
from pld_core.types import Frame
from pld_ros.benches.recordings import number_of
from pld_ros.drivers import make_camera

SLACK_S = 0.25  # a busy machine takes its time to wake a reader


class CameraDriverContract:
    """``size``: height and width; ``fps``; ``patience_s``: a frame comes within this time, also after ``open``."""

    size = (120, 160)
    fps = 30
    patience_s = 10.0

    def make_camera(self) -> CameraDriver:
        raise NotImplementedError

    @pytest.fixture
    def camera(self):
        camera = self.make_camera()
        camera.open()
        yield camera
        camera.close()

    def frame(self, camera: CameraDriver) -> Frame:
        frame = camera.read(self.patience_s)
        assert frame is not None, f"no frame within {self.patience_s} s"
        return frame

    def test_protocol(self):
        assert isinstance(self.make_camera(), CameraDriver)

    def test_nothing_is_read_while_closed(self):
        camera = self.make_camera()
        with pytest.raises(RobotError, match="open"):
            camera.read(0.0)
        camera.open()
        self.frame(camera)
        camera.close()
        with pytest.raises(RobotError, match="open"):
            camera.read(0.0)

    def test_frames_are_pictures_of_the_station_s_size(self, camera):
        for _ in range(3):
            image = self.frame(camera).image
            assert image.shape == (*self.size, 3)
            assert image.dtype == np.uint8

    def test_stamps_increase_and_lie_in_the_past(self, camera):
        last_ns = 0
        for _ in range(15):
            frame = self.frame(camera)
            assert isinstance(frame.stamp_ns, int)
            assert last_ns < frame.stamp_ns <= time.time_ns()
            last_ns = frame.stamp_ns

    def test_stamps_are_ros_system_time_of_the_capture(self, camera):
        ages_s = [(time.time_ns() - self.frame(camera).stamp_ns) / 1e9 for _ in range(15)]
        assert min(ages_s) < 2 / self.fps  # the quickest; all others may have been delayed by this machine

    def test_a_frame_is_given_once(self, camera):
        first, frames = self.frame(camera).stamp_ns, 0
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            frame = camera.read(0.0)
            if frame is not None:
                frames, last = frames + 1, frame.stamp_ns
        assert frames > 0
        assert frames <= (last - first) / 1e9 * self.fps + 2  # no more than were taken

    def test_the_newest_frame_is_given(self, camera):
        before = self.frame(camera).stamp_ns
        time.sleep(0.4)
        frame = self.frame(camera)
        assert frame.stamp_ns - before > 0.4e9 - 2e9 / self.fps  # not the one that came next

    def test_frames_are_not_overwritten(self, camera):
        frame = self.frame(camera)
        kept = frame.image.copy()
        for _ in range(5):
            assert not np.array_equal(self.frame(camera).image, kept)
        assert np.array_equal(frame.image, kept)

    def test_a_read_does_not_block_for_longer_than_its_timeout(self, camera):
        for timeout_s in (0.0, 0.005, 0.02):
            took_s = []
            for _ in range(5):
                began = time.monotonic()
                camera.read(timeout_s)
                took_s.append(time.monotonic() - began)
            assert sorted(took_s)[2] < timeout_s + SLACK_S / 5
            assert max(took_s) < timeout_s + 4 * SLACK_S

    def test_opening_twice_is_opening_once(self, camera):
        camera.open()
        self.frame(camera)

    def test_closing_twice_is_closing_once(self):
        camera = self.make_camera()
        camera.close()
        camera.open()
        camera.close()
        camera.close()

    def test_it_opens_again(self, camera):
        before = self.frame(camera).stamp_ns
        for _ in range(2):
            camera.close()
            camera.open()
            frame = self.frame(camera)
            assert frame.stamp_ns > before
            before = frame.stamp_ns

    def test_closing_ends_a_read_on_another_thread(self, camera):
        ended = threading.Event()

        def read_on() -> None:
            try:
                while True:
                    camera.read(self.patience_s)
            except RobotError:
                ended.set()

        reader = threading.Thread(target=read_on, daemon=True)
        reader.start()
        time.sleep(0.1)
        camera.close()
        assert ended.wait(self.patience_s)
        reader.join()


class RecordedCameraContract(CameraDriverContract):
    """Of a camera that a recording stands in for; a fixture ``config`` gives its CameraConfig."""

    size = (HEIGHT, WIDTH)
    fps = FPS
    unsettled = 0  # frames after which the stamps are exact

    @pytest.fixture(autouse=True)
    def _station(self, config):
        self.config = config

    def make_camera(self) -> CameraDriver:
        return make_camera(self.config)

    def test_a_recording_begins_again_at_its_end(self, camera):
        numbers = [number_of(self.frame(camera).image)]
        while len(numbers) < 200 and numbers[-1] >= numbers[-2:][0]:
            numbers.append(number_of(self.frame(camera).image))
        assert numbers[-1] < numbers[-2]
        assert camera.counts["reopened"] == 0

    def test_stamps_are_as_far_apart_as_the_pictures_were_taken(self, camera):
        """However late this machine gets to see them."""
        frames = [self.frame(camera) for _ in range(12 + self.unsettled)][self.unsettled :]
        for before, after in pairwise(frames):
            taken = number_of(after.image) - number_of(before.image)
            if taken > 0:  # not at the recording's end
                assert (after.stamp_ns - before.stamp_ns) / 1e9 == pytest.approx(taken / FPS, abs=0.005)
