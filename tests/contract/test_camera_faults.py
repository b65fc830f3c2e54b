"""Cameras that freeze, are late, are pulled out or deliver halves: what the reader sees, and how soon.

Over the real libraries where a recording or a stream can be made to do it; where only a device could (a call
that never returns), over a stand-in for the library.
"""

from __future__ import annotations

import dataclasses
import re
import threading
import time

import numpy as np
import pytest
from camera_tools import FPS, HEIGHT, WIDTH, jpeg_server, until_fault, until_frame, watch

from pld_core.errors import ConfigError, RobotError, RobotUnavailableError
from pld_core.stations import CameraConfig
from pld_ros.benches.recordings import Delivery, number_of, record_realsense, record_video, steady
from pld_ros.drivers import camera_stream
from pld_ros.drivers.camera_stream import Shot, StreamingCamera

GOOD = 20  # pictures before the fault
SETTLED = 5  # pictures until one of them was surely not held up
NOTICED_S = 0.15  # the limit
LOADED_S = 0.5  # this machine may be slow to run a reader; a blocked one would wait for seconds
CONFIG = CameraConfig("realsense", width=WIDTH, height=HEIGHT, fps=FPS)


def report(what: str, seen) -> None:
    print(f"measured: {what}: noticed {seen.detection_ms:.0f} ms after the last frame, read blocked at most "
          f"{1e3 * seen.longest_read_s:.0f} ms: {seen.fault}")  # fmt: skip


class TestRealSense:
    @pytest.fixture
    def play(self, tmp_path):
        """Open a camera over what is recorded now."""
        rs = pytest.importorskip("pld_ros.drivers.realsense", reason="needs the extra 'realsense'")
        opened = []

        def play(deliveries: list[Delivery], depth: bool = False, **options) -> StreamingCamera:
            path = record_realsense(tmp_path / "fault.db3", deliveries, FPS, depth=depth)
            camera = rs.RealSenseCamera(dataclasses.replace(CONFIG, recording=str(path)), repeat=False, **options)
            camera.open()
            opened.append(camera)
            return camera

        yield play
        for camera in opened:
            camera.close()

    def test_unplugged(self, play):
        """The recording's end; the next attempt finds the device again."""
        camera = play(steady(GOOD / FPS, FPS, HEIGHT, WIDTH))
        seen = watch(camera, lambda seen: until_fault(seen) and "has ended" in camera.fault)
        report("unplugged", seen)
        assert seen.unnoticed_s <= NOTICED_S
        again = watch(camera, until_frame)
        assert again.frames[0][1].stamp_ns > seen.frames[-1][1].stamp_ns
        assert max(seen.longest_read_s, again.longest_read_s) < LOADED_S
        assert camera.counts["reopened"] == 1
        assert camera.fault == ""

    def test_silent(self, play):
        pictures = steady(2 * GOOD / FPS, FPS, HEIGHT, WIDTH)
        camera = play(
            [dataclasses.replace(each, at_s=each.at_s + (2.0 if each.number > GOOD else 0.0)) for each in pictures]
        )
        seen = watch(camera, until_fault)
        report("frozen, no frames", seen)
        assert seen.unnoticed_s <= NOTICED_S
        assert "no new frame for" in seen.fault
        assert all(number_of(frame.image) < GOOD for _, frame in seen.frames)
        again = watch(camera, until_frame)  # from the beginning: it was opened again before it spoke by itself
        print(
            f"measured: frozen, no frames: frames again {again.frames[0][0] - seen.frames[-1][0]:.1f} s after the last"
        )
        assert camera.counts["reopened"] == 1
        assert number_of(again.frames[0][1].image) < GOOD
        assert max(seen.longest_read_s, again.longest_read_s) < LOADED_S

    def test_a_short_silence_is_waited_out(self, play):
        pictures = steady(2 * GOOD / FPS, FPS, HEIGHT, WIDTH)
        shifted = [
            dataclasses.replace(each, at_s=each.at_s + (0.6 if each.number > GOOD else 0.0)) for each in pictures
        ]
        camera = play(shifted, reopen_after_s=30.0)
        seen = watch(camera, until_fault)
        again = watch(camera, until_frame)
        assert number_of(again.frames[0][1].image) > number_of(seen.frames[-1][1].image)
        assert camera.counts["reopened"] == 0

    def test_the_same_picture_again_and_again(self, play):
        pictures = steady(2 * GOOD / FPS, FPS, HEIGHT, WIDTH)
        camera = play([dataclasses.replace(each, number=min(each.number, GOOD)) for each in pictures])
        seen = watch(camera, until_fault)
        report("frozen, same frame", seen)
        assert seen.unnoticed_s <= NOTICED_S
        assert f"it repeats its picture {GOOD}" in seen.fault
        assert number_of(seen.frames[-1][1].image) == GOOD - 1
        assert len({frame.stamp_ns for _, frame in seen.frames}) == len(seen.frames) <= GOOD
        assert camera.counts["repeated"] > 0

    def test_of_two_streams_colour_ends(self, play):
        """The device goes on with its depth: that is no picture, and no reason to believe in the colour."""
        pictures = steady(2 * GOOD / FPS, FPS, HEIGHT, WIDTH)
        camera = play([dataclasses.replace(each, colour=each.number <= GOOD) for each in pictures], depth=True)
        seen = watch(camera, until_fault)
        report("only depth goes on", seen)
        assert seen.unnoticed_s <= NOTICED_S
        assert number_of(seen.frames[-1][1].image) == GOOD - 1

    def test_of_two_streams_depth_ends(self, play):
        """Nobody asked for it, so that it holds no colour back."""
        pictures = steady(2 * GOOD / FPS, FPS, HEIGHT, WIDTH)
        camera = play([dataclasses.replace(each, depth=each.number <= GOOD) for each in pictures], depth=True)
        seen = watch(camera, until_fault)
        assert number_of(seen.frames[-1][1].image) == 2 * GOOD - 1
        assert camera.counts["reopened"] == 0

    def test_every_other_picture_is_lost(self, play):
        """As librealsense does with those that arrive incomplete: the others are given, with their own times."""
        pictures = steady(2 * GOOD / FPS, FPS, HEIGHT, WIDTH)
        camera = play([each for each in pictures if each.number % 2])
        seen = watch(camera, lambda seen: until_fault(seen) and "has ended" in camera.fault)
        numbers = [number_of(frame.image) for _, frame in seen.frames]
        print(f"measured: every other picture lost: {len(numbers)} of {GOOD} were given")
        assert not any(number % 2 for number in numbers)
        # The clock goes by the quickest picture so far, and the first may not have been quick.
        assert len(numbers) > SETTLED + 1
        stamps_s = np.array([frame.stamp_ns for _, frame in seen.frames])[SETTLED:] / 1e9
        assert np.diff(stamps_s) == pytest.approx(np.diff(numbers[SETTLED:]) / FPS, abs=0.02)

    def test_late(self, play):
        """Pictures that were 300 ms under way are given with the time at which they were taken."""
        late_s, pictures = 0.3, steady(2 * GOOD / FPS, FPS, HEIGHT, WIDTH)
        camera = play(
            [dataclasses.replace(each, at_s=each.at_s + (late_s if each.number > GOOD else 0.0)) for each in pictures]
        )
        seen = watch(camera, lambda seen: bool(seen.frames) and number_of(seen.frames[-1][1].image) >= GOOD + 5)
        by_number = {number_of(frame.image): (at_s, frame.stamp_ns) for at_s, frame in seen.frames}
        on_time, late = max(n for n in by_number if n < GOOD), max(by_number)
        age_ms = (time.time_ns() - by_number[late][1]) / 1e6
        print(
            f"measured: late: a frame that was {1e3 * late_s:.0f} ms under way is {age_ms:.0f} ms old when it is read"
        )
        assert age_ms > 1e3 * late_s - 50  # older than the station's max_age_ms: it voids the episode
        taken_s = (by_number[late][1] - by_number[on_time][1]) / 1e9
        assert taken_s == pytest.approx((late - on_time) / FPS, abs=0.02)


class TestOpenCV:
    @pytest.fixture
    def server(self):
        with jpeg_server() as server:
            yield server

    @pytest.fixture
    def camera(self, server):
        opencv = pytest.importorskip("pld_ros.drivers.opencv_camera", reason="needs the extra 'opencv'")
        camera = opencv.OpenCVCamera(dataclasses.replace(CONFIG, driver="opencv", serial=server.url))
        camera.open()
        watch(camera, lambda seen: len(seen.frames) >= 5)
        yield camera
        camera.close()

    @pytest.mark.parametrize(
        ("mode", "fault"),
        [
            ("silent", "no new frame for"),
            ("half", "its pictures arrive incomplete"),
            ("other size", r"a picture of \(96, 128, 3\) uint8 came in place of \(120, 160, 3\)"),
            ("gone", "has ended or fallen silent"),
        ],
    )
    def test_a_stream_that_fails_and_recovers(self, server, camera, mode, fault):

        def until_named(seen) -> bool:
            if len(seen.frames) == 5:
                server.mode = mode
            return until_fault(seen) and re.search(fault, camera.fault) is not None

        seen = watch(camera, until_named)
        report(f"network stream, {mode}", seen)
        assert seen.unnoticed_s <= NOTICED_S
        server.mode = "well"
        again = watch(camera, until_frame)
        assert again.frames[0][1].image.shape == (HEIGHT, WIDTH, 3)
        assert max(seen.longest_read_s, again.longest_read_s) < LOADED_S

    def test_a_video_that_ends(self, tmp_path):
        opencv = pytest.importorskip("pld_ros.drivers.opencv_camera", reason="needs the extra 'opencv'")
        path = record_video(tmp_path / "short.mp4", steady(GOOD / FPS, FPS, HEIGHT, WIDTH), FPS)
        camera = opencv.OpenCVCamera(dataclasses.replace(CONFIG, recording=str(path)), repeat=False)
        camera.open()
        seen = watch(camera, until_fault)
        report("video ends", seen)
        assert seen.unnoticed_s <= NOTICED_S
        watch(camera, until_frame)
        camera.close()
        assert seen.longest_read_s < LOADED_S


class Scripted:
    """A device that does what its test says: ``grab`` calls it with the number of the picture."""

    shape = (HEIGHT, WIDTH)

    def __init__(self, grab=lambda number: None, close=lambda: None) -> None:
        self.number, self.on_grab, self.on_close = 0, grab, close

    def grab(self, timeout_s: float) -> Shot | None:
        time.sleep(1 / FPS)
        self.number += 1
        shot = self.on_grab(self.number)
        return shot or Shot(self.number, time.monotonic(), np.full((*self.shape, 3), self.number % 256, np.uint8))

    def close(self) -> None:
        self.on_close()


class TestAnyDevice:
    @pytest.fixture
    def release(self, monkeypatch):
        """Ends all calls that hang."""
        monkeypatch.setattr(camera_stream, "CLOSE_S", 0.3)
        monkeypatch.setattr(camera_stream, "OPEN_S", 0.5)
        release = threading.Event()
        yield release
        release.set()

    def opened(self, *devices: Scripted | Exception, **options) -> StreamingCamera:
        """One after the other, as often as it is opened; the last one again and again."""
        left = list(devices)

        def connect() -> Scripted:
            device = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(device, Exception):
                raise device
            return device

        camera = StreamingCamera(CONFIG, connect, **options)
        camera.open()
        return camera

    def test_a_grab_that_never_returns_blocks_nobody(self, release):
        hanging = Scripted(lambda number: release.wait() and None if number > 5 else None)
        camera = self.opened(hanging, Scripted())
        seen = watch(camera, until_fault)
        report("a library's call hangs", seen)
        assert seen.unnoticed_s <= NOTICED_S
        assert seen.longest_read_s < LOADED_S
        began_s = time.monotonic()
        camera.close()
        assert time.monotonic() - began_s < camera_stream.CLOSE_S + LOADED_S
        camera.open()  # another thread, another device; the old one may come back or not
        watch(camera, until_frame)
        camera.close()

    def test_a_close_that_never_returns_blocks_nobody(self, release):
        camera = self.opened(Scripted(close=release.wait))
        watch(camera, until_frame)
        began_s = time.monotonic()
        camera.close()
        assert time.monotonic() - began_s < camera_stream.CLOSE_S + LOADED_S

    def test_a_device_that_never_opens_is_given_up(self, release):
        camera = StreamingCamera(CONFIG, lambda: release.wait() and Scripted())
        with pytest.raises(RobotUnavailableError, match="has not answered for"):
            camera.open()
        with pytest.raises(RobotError, match="open"):
            camera.read(0.0)

    def test_a_loop_at_20_hz_is_not_held_up(self, release):
        """A read that does not wait takes no time, whatever the device does."""
        camera, took_s = self.opened(Scripted(lambda number: release.wait() and None if number > 5 else None)), []
        for _ in range(20):
            began_s = time.monotonic()
            camera.read(0.0)
            took_s.append(time.monotonic() - began_s)
            time.sleep(0.05)
        camera.close()
        print(f"measured: read(0) of a hanging device: median {1e3 * sorted(took_s)[10]:.3f} ms")
        assert sorted(took_s)[10] < 0.01
        assert max(took_s) < LOADED_S

    def test_refused_at_first_is_open_s_error(self):
        camera = StreamingCamera(CONFIG, lambda: _raise(ConfigError("wrong size")))
        for _ in range(2):  # it may be tried again
            with pytest.raises(ConfigError, match="wrong size"):
                camera.open()

    def test_it_is_opened_again_until_it_answers(self):
        lost = Scripted(lambda number: _raise(RobotUnavailableError("lost.")) if number > 3 else None)
        camera = self.opened(lost, RobotUnavailableError("not there."), RobotUnavailableError("not there."), Scripted())
        seen = watch(camera, lambda seen: until_fault(seen) and "not there" in camera.fault)
        assert "opened again until it answers" in seen.fault
        watch(camera, until_frame)
        assert camera.counts["reopened"] == 3
        camera.close()

    def test_a_device_that_is_lost_is_closed(self):
        closed = threading.Event()
        lost = Scripted(lambda number: _raise(RobotUnavailableError("lost.")) if number > 3 else None, closed.set)
        camera = self.opened(lost, Scripted())
        watch(camera, lambda seen: camera.counts["reopened"] > 0)
        assert closed.is_set()
        camera.close()

    def test_a_mistake_in_the_driver_reaches_the_reader(self):
        camera = self.opened(Scripted(lambda number: _raise(ZeroDivisionError("mistake")) if number > 3 else None))
        with pytest.raises(RobotError, match="ZeroDivisionError"):
            watch(camera, lambda seen: False)
        assert "ZeroDivisionError" in camera.fault
        camera.close()

    @pytest.mark.parametrize(
        "wrong",
        [
            np.zeros((HEIGHT, WIDTH), np.uint8),
            np.zeros((HEIGHT, WIDTH, 3), np.float32),
            np.zeros((HEIGHT // 2, WIDTH, 3), np.uint8),
        ],
        ids=["grey", "floats", "half"],
    )
    def test_broken_pictures_are_not_given(self, wrong):
        camera = self.opened(Scripted(lambda number: Shot(number, time.monotonic(), wrong) if number > 5 else None))
        seen = watch(camera, until_fault)
        report("broken pictures", seen)
        assert seen.unnoticed_s <= NOTICED_S
        assert "came in place of" in seen.fault
        assert camera.counts["broken"] > 0
        camera.close()

    def test_the_system_clock_is_set(self, monkeypatch):
        """Ages do not change, and stamps follow the clock at once."""
        ahead_ns, real_ns = [0], time.time_ns
        camera = self.opened(Scripted())
        monkeypatch.setattr(camera_stream.time, "time_ns", lambda: real_ns() + ahead_ns[0])
        for ahead_s in (0, 3600, -3600):
            ahead_ns[0] = ahead_s * 10**9
            camera.read(5.0)  # whichever was there before
            ages_s = []
            for _ in range(5):
                frame = camera.read(5.0)
                assert frame is not None
                ages_s.append((time.time_ns() - frame.stamp_ns) / 1e9)
            assert 0.0 <= min(ages_s) < LOADED_S
        camera.close()


def _raise(error: Exception):
    raise error
