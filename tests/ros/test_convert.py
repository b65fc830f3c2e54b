"""Messages hold what the core's types hold: nothing is lost on the way there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pld_msgs.msg import PolicyStep
from sensor_msgs.msg import Image

from pld_core.errors import ContractError
from pld_core.stations import CameraConfig
from pld_core.types import ActionChunk, EpisodeSpec
from pld_ros import convert
from pld_ros.pictures import policy_view
from pld_ros.recording import records

STAMPS = {"proprio": 1_700_000_000_123_456_789, "wrist": 1_700_000_000_999_999_999, "front": 7}

specs = st.builds(
    EpisodeSpec,
    task=st.text(max_size=20).filter(lambda text: "\0" not in text),
    seed=st.integers(0, 2**64 - 1),
    mode=st.sampled_from(["base", "learn", "probe", "evaluate", "oracle"]),
    t_base=st.none() | st.integers(0, 2**31 - 1),
    xi=st.floats(0, 1),
    explore=st.booleans(),
    noise_ticks=st.integers(1, 2**32 - 1),
    record_images=st.booleans(),
)


@settings(deadline=None)
@given(specs)
def test_a_spec_comes_back_equal_and_bags_read_it_the_same(spec: EpisodeSpec) -> None:
    message = convert.spec_msg(spec)
    assert convert.spec_of(message) == spec
    assert records.spec_of_message(message) == spec


@settings(deadline=None)
@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_are_exact_to_the_nanosecond(stamp: int) -> None:
    assert convert.nanoseconds(convert.time_msg(stamp)) == stamp


def test_the_stamps_of_all_sources_come_back_in_their_order() -> None:
    message = PolicyStep()
    convert.put_stamps(message, STAMPS)
    assert list(convert.stamps_of(message).items()) == list(STAMPS.items())


@pytest.mark.parametrize("features", [0, 5])
def test_a_chunk_comes_back_bit_for_bit_with_the_stamp_of_its_newest_source(features: int) -> None:
    rng = np.random.default_rng(0)
    actions, own = rng.uniform(-1, 1, (8, 7)).astype(np.float32), rng.normal(size=features).astype(np.float32)
    message = convert.chunk_msg(ActionChunk(actions, own, "v1", 3), STAMPS, inference_ms=12.5)
    chunk = convert.chunk_of(message)
    assert chunk.actions.tobytes() == actions.tobytes()
    assert chunk.actions.shape == (8, 7)
    assert chunk.features.tobytes() == own.tobytes()
    assert chunk.features.dtype == np.float32
    assert (chunk.policy_version, chunk.stamp_ns) == ("v1", max(STAMPS.values()))
    assert convert.stamps_of(message) == STAMPS
    assert message.inference_ms == 12.5


@pytest.mark.parametrize("values", [[], [1.5, -0.0, np.nan, np.inf, 1e-40]])
def test_numbers_come_back_bit_for_bit(values: list[float]) -> None:
    given = np.array(values, np.float32)
    assert convert.vector(convert.floats(given)).tobytes() == given.tobytes()


def test_a_vector_is_a_copy_of_the_message_s() -> None:
    message = convert.floats(np.zeros(3, np.float32))
    copied = convert.vector(message)
    message[0] = 1.0
    assert not copied.any()


def test_an_array_that_is_not_contiguous_is_converted_by_its_values() -> None:
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(convert.vector(convert.floats(grid[:, 1])), grid[:, 1])


@pytest.mark.parametrize("cut", [np.s_[:], np.s_[2:12, 3:20], np.s_[::-1, ::2]])
def test_a_picture_comes_back_equal(cut: tuple[slice, slice]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)[cut]
    message = convert.image_msg(frame, STAMPS["wrist"], "camera_wrist")
    np.testing.assert_array_equal(convert.image_array(message), frame)
    assert (message.height, message.width, message.encoding) == (*frame.shape[:2], "rgb8")
    assert convert.nanoseconds(message.header.stamp) == STAMPS["wrist"]
    assert message.header.frame_id == "camera_wrist"


def test_pictures_of_other_encodings_are_refused() -> None:
    with pytest.raises(ContractError, match="bgr8"):
        convert.image_array(Image(height=1, width=1, encoding="bgr8", step=3, data=[0, 0, 0]))


@pytest.mark.parametrize(("step", "size"), [(8, 16), (6, 11), (6, 18)])
def test_pictures_whose_bytes_do_not_fit_their_size_are_refused(step: int, size: int) -> None:
    with pytest.raises(ContractError, match="2 x 2"):
        convert.image_array(Image(height=2, width=2, encoding="rgb8", step=step, data=[0] * size))


def camera(size: int) -> CameraConfig:
    return CameraConfig("simulated", policy_size=size)


def test_policies_see_the_middle_square() -> None:
    wide = np.zeros((48, 64, 3), np.uint8)
    wide[:, 8:56] = 200
    assert (policy_view(wide, camera(16)) == 200).all()
    assert (policy_view(wide.transpose(1, 0, 2), camera(16)) == 200).all()


def test_a_crop_is_taken_first() -> None:
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[10:30, 5:45] = 200
    cropped = CameraConfig("opencv", policy_size=16, crop=(5, 10, 40, 20))
    assert (policy_view(frame, cropped) == 200).all()


def test_a_smaller_picture_is_the_mean_of_its_pixels() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    means = frame.reshape(4, 2, 4, 2, 3).mean((1, 3))
    seen = policy_view(frame, camera(4))
    assert seen.shape == (4, 4, 3)
    assert seen.dtype == np.uint8
    np.testing.assert_allclose(seen, means, atol=1)  # rounded once for each axis


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    frame = np.zeros((4, 4, 3), np.uint8)
    assert policy_view(frame, camera(4)) is frame
