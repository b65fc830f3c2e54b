"""Choosing a camera, setting it up, and its clock: what needs no camera."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pld_core.errors import ConfigError, RobotUnavailableError
from pld_core.stations import CameraConfig
from pld_ros.benches.recordings import moving_picture, number_of
from pld_ros.drivers.camera_stream import fitted
from pld_ros.drivers.capture_clock import CaptureClock

PERIOD_S = 1 / 30


class TestCaptureClock:
    @given(
        offset_s=st.floats(-1e9, 1e9),
        drift=st.floats(-5e-5, 5e-5),
        delays_s=st.lists(st.floats(0.0, 0.5), min_size=1, max_size=60),
    )
    def test_never_in_the_future_and_never_older_than_it_is(self, offset_s, drift, delays_s):
        clock = CaptureClock()
        for i, delay_s in enumerate(delays_s):
            truth_s = 1000.0 + i * PERIOD_S
            arrived_s = truth_s + delay_s
            taken_s = clock.taken_s(offset_s + truth_s * (1 + drift), arrived_s)
            assert truth_s - 1e-3 <= taken_s <= arrived_s + 1e-6

    def test_a_late_picture_is_recognised_once_the_clock_is_known(self):
        clock = CaptureClock()
        for i in range(30):
            clock.taken_s(i * PERIOD_S, 1000.0 + i * PERIOD_S + 0.001 * (i % 7))
        assert clock.taken_s(1.0, 1001.0 + 0.4) == pytest.approx(1001.0, abs=1e-3)

    @pytest.mark.parametrize("drift", [1e-4, -1e-4])
    def test_drift_is_followed(self, drift):
        clock = CaptureClock()
        for i in range(round(3600 / PERIOD_S)):
            truth_s, delay_s = 1000.0 + i * PERIOD_S, 0.002 * (i % 30)
            error_s = clock.taken_s(i * PERIOD_S * (1 + drift), truth_s + delay_s) - truth_s
            assert abs(error_s) < 1e-3

    def test_a_delay_that_stays_is_told_for_minutes(self):
        clock = CaptureClock()
        for i in range(round(20 / PERIOD_S)):
            clock.taken_s(i * PERIOD_S, 1000.0 + i * PERIOD_S + 0.010)
        for i in range(round(20 / PERIOD_S), round(320 / PERIOD_S)):
            arrived_s = 1000.0 + i * PERIOD_S + 0.310
            assert 0.235 < arrived_s - clock.taken_s(i * PERIOD_S, arrived_s) < 0.301

    def test_a_clock_that_starts_anew(self):
        clock = CaptureClock()
        clock.taken_s(500.0, 1000.0)
        assert clock.taken_s(0.0, 1001.0) == pytest.approx(1001.0)


class TestFitted:
    @pytest.mark.parametrize("size", [(480, 640), (720, 1280), (1280, 720), (32, 48)])
    def test_the_middle_in_the_wanted_size(self, size):
        image = np.zeros((*size, 3), np.uint8)
        image[size[0] // 2 - 2 : size[0] // 2 + 2, size[1] // 2 - 2 : size[1] // 2 + 2] = 255
        seen = fitted(image, 96, 128)
        assert seen.shape == (96, 128, 3)
        assert seen.dtype == np.uint8
        rows, columns = np.nonzero(seen[..., 0])
        assert (rows.mean(), columns.mean()) == pytest.approx((47.5, 63.5), abs=1)

    def test_the_same_size_is_the_same_picture(self):
        image = moving_picture(7, 96, 128)
        assert fitted(image, 96, 128) is image


def test_pictures_say_which_they_are():
    assert [number_of(moving_picture(i, 120, 160)) for i in (0, 1, 15, 16, 255, 256, 4095)] == [
        0, 1, 15, 16, 255, 256, 4095
    ]  # fmt: skip


class Range:
    min, max = 1.0, 10_000.0


class ColourSensor:
    """Takes options as librealsense's sensors do."""

    def __init__(self, with_depth: bool) -> None:
        self.with_depth, self.set = with_depth, {}

    def is_depth_sensor(self) -> bool:
        return self.with_depth

    def supports(self, option) -> bool:
        return True

    def get_option_range(self, option) -> Range:
        return Range()

    def set_option(self, option, value) -> None:
        self.set[option.name] = value


class TestRealSense:
    @pytest.fixture
    def rs(self):
        return pytest.importorskip("pld_ros.drivers.realsense", reason="needs the extra 'realsense'")

    def test_a_serial_number_that_is_not_there(self, rs):
        with pytest.raises(RobotUnavailableError, match=r"'9'\. Connected: 1 \(D435\), 2 \(D405\)\."):
            rs._serial("9", {"2": "D405", "1": "D435"})

    def test_several_and_none_is_chosen(self, rs):
        with pytest.raises(RobotUnavailableError, match=r"give each its serial: 1 \(D435\), 2 \(D405\)"):
            rs._serial("", {"2": "D405", "1": "D435"})

    def test_the_only_one_needs_no_serial_number(self, rs):
        assert rs._serial("", {"1": "D435"}) == "1"
        assert rs._serial("1", {"2": "D405", "1": "D435"}) == "1"

    @pytest.mark.parametrize("place", [0, 1])
    def test_colour_may_come_from_any_sensor(self, rs, place):
        device, stream = rs.rs.software_device(), rs.rs.video_stream()
        stream.fmt, stream.width, stream.height, stream.fps, stream.bpp = rs.rs.format.any, 4, 4, 30, 2
        for i in range(2):
            stream.type, stream.uid = (rs.rs.stream.color if i == place else rs.rs.stream.depth), i
            device.add_sensor(f"sensor {i}").add_video_stream(stream)
        assert rs.colour_sensor(device).get_info(rs.rs.camera_info.name) == f"sensor {place}"

    def test_automatic_exposure_keeps_the_rate(self, rs):
        sensor = ColourSensor(with_depth=False)
        rs.set_up(sensor, 0)
        assert sensor.set == {"global_time_enabled": 1, "enable_auto_exposure": 1, "auto_exposure_priority": 0}

    @pytest.mark.parametrize(("with_depth", "value"), [(False, 80), (True, 8000)])
    def test_fixed_exposure_in_the_sensor_s_own_unit(self, rs, with_depth, value):
        sensor = ColourSensor(with_depth)
        rs.set_up(sensor, 8000)
        assert (sensor.set["enable_auto_exposure"], sensor.set["exposure"]) == (0, value)

    def test_exposure_out_of_range(self, rs):
        with pytest.raises(ConfigError, match="from 100 to 1000000 for this camera, got 2000000"):
            rs.set_up(ColourSensor(with_depth=False), 2_000_000)


class Capture:
    """Takes what ``can`` says, whatever is asked for, as UVC devices do."""

    def __init__(self, cv2, can: tuple[int, int, int], refuses=()) -> None:
        names = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS)
        self.can, self.refuses, self.given = dict(zip(names, can)), refuses, {}

    def set(self, prop, value) -> bool:
        self.given[prop] = value
        return prop not in self.refuses

    def get(self, prop) -> float:
        return self.can[prop]


class TestOpenCV:
    @pytest.fixture
    def opencv(self):
        return pytest.importorskip("pld_ros.drivers.opencv_camera", reason="needs the extra 'opencv'")

    def test_a_device_that_is_not_there(self, opencv):
        for serial in ("77", "/dev/video77"):
            with pytest.raises(
                RobotUnavailableError, match=r"no camera /dev/video77. Connected: /dev/video0 \(Cam\)\."
            ):
                opencv.device_path(serial, {"/dev/video0": "Cam"})

    def test_which_of_several(self, opencv):
        with pytest.raises(RobotUnavailableError, match=r"Several cameras .* /dev/video0 \(A\), /dev/video2 \(B\)"):
            opencv.device_path("", {"/dev/video0": "A", "/dev/video2": "B"})
        assert opencv.device_path("", {"/dev/video4": "A"}) == "/dev/video4"
        with pytest.raises(RobotUnavailableError, match="no camera at all"):
            opencv.device_path("", {})

    def test_another_size_than_asked_for_is_refused(self, opencv):
        with pytest.raises(ConfigError, match="gives 640x480 at 30 fps in place of 800x600 at 30 fps"):
            opencv.set_up(Capture(opencv.cv2, (640, 480, 30)), CameraConfig("opencv", width=800, height=600), "Camera")

    def test_exposure(self, opencv):
        cv2 = opencv.cv2
        capture = Capture(cv2, (640, 480, 30))
        opencv.set_up(capture, CameraConfig("opencv", exposure_us=8000), "Camera")
        assert capture.given[cv2.CAP_PROP_EXPOSURE] == 80
        refusing = Capture(cv2, (640, 480, 30), refuses=(cv2.CAP_PROP_EXPOSURE,))
        with pytest.raises(ConfigError, match="takes no exposure_us of 8000"):
            opencv.set_up(refusing, CameraConfig("opencv", exposure_us=8000), "Camera")

    def test_only_whole_jpegs_are_pictures(self, opencv):
        whole = opencv.cv2.imencode(".jpg", moving_picture(3, 96, 128)[..., ::-1])[1].ravel()
        picture = opencv._whole_jpeg(np.pad(whole, (0, 7)))  # as UVC fills up its buffers
        assert number_of(picture[..., ::-1]) == 3
        for part in (0.2, 0.5, 0.9):
            assert opencv._whole_jpeg(whole[: int(part * whole.size)]) is None
