"""openpi's messages and the keys of served policies, without any network."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pld_core import bring
from pld_core.config import config_root
from pld_core.errors import ConfigError, ContractError, UnknownNameError
from pld_core.types import ActionChunk, Observation
from pld_core.vla.remote import json_arrays
from pld_core.vla.remote.image_key import ImageKey, resized
from pld_core.vla.remote.key_map import KeyMap, OwnKeys, hashed
from pld_core.vla.remote.settings import load_keys, load_settings, policy_names
from pld_core.vla.remote.wire import WireError, pack, unpack

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ARRAYS = hnp.arrays(
    st.sampled_from([np.uint8, np.int64, np.float16, np.float32, np.float64, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@given(PLAIN)
def test_plain_values_come_back(value: Any) -> None:
    assert unpack(pack(value)) == value


@given(ARRAYS)
def test_arrays_come_back(array: np.ndarray) -> None:
    again = unpack(pack({"a": [array]}))["a"][0]
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert again.tobytes() == array.tobytes()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_known_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        unpack(data)


@given(ARRAYS)
def test_arrays_come_back_through_json(array: np.ndarray) -> None:
    again = json_arrays.loads(json_arrays.dumps({"a": [array], "b": "text"}))
    assert again["b"] == "text"
    assert (again["a"][0].dtype, again["a"][0].shape) == (array.dtype, array.shape)
    assert again["a"][0].tobytes() == array.tobytes()


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_json_or_a_known_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        json_arrays.loads(data)


@pytest.mark.parametrize("value", [np.array(["a"]), np.array([None]), object(), float("nan"), b"bytes"])
def test_what_json_cannot_hold(value: Any) -> None:
    with pytest.raises(WireError, match="Cannot send this"):
        json_arrays.dumps({"a": value})


def test_arrays_are_written_as_openpi_reads_them() -> None:
    plain = msgpack.unpackb(pack({"x": np.array([[1.5]], np.float32), "n": np.int64(3)}))
    assert plain["x"] == {b"__ndarray__": True, b"data": b"\0\0\xc0?", b"dtype": "<f4", b"shape": [1, 1]}
    assert plain["n"] == {b"__npgeneric__": True, b"data": 3, b"dtype": "<i8"}


@pytest.mark.parametrize("value", [np.array(["a"]), np.array([None]), np.array([1j]), object(), {"a": {1, 2}}])
def test_what_cannot_be_sent(value: Any) -> None:
    with pytest.raises(WireError, match="Cannot send"):
        pack(value)


def seen(**cameras: tuple[int, int]) -> Observation:
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in cameras.items()}
    return Observation(images, np.arange(8, dtype=np.float32), "stack")


ALOHA = KeyMap(
    {"images//cam_high": ImageKey("front", 32, 32, channels_first=True), "images//cam_left": ImageKey("left")},
    {"state//arm": (6, 2), "state//gripper": (7,)},
    8,
    prompt="task",
    action="action",
    action_scale=(1.0, 2.0),
    action_offset=(0.0, -1.0),
)


def test_a_request_has_the_names_sizes_and_entries_of_the_policy() -> None:
    observation = seen(front=(32, 32), left=(20, 10), unused=(4, 4))
    request = ALOHA.request(observation)
    assert sorted(request) == ["images", "state", "task"]
    assert request["task"] == "stack"
    np.testing.assert_array_equal(request["images"]["cam_high"], observation.images["front"].transpose(2, 0, 1))
    np.testing.assert_array_equal(request["images"]["cam_left"], observation.images["left"])
    np.testing.assert_array_equal(request["state"]["arm"], [6, 2])
    np.testing.assert_array_equal(request["state"]["gripper"], [7])


def test_a_server_reads_what_a_client_wrote() -> None:
    observation = seen(front=(32, 32), left=(20, 10))
    again = ALOHA.observation(unpack(pack(ALOHA.request(observation))), {"left": (20, 10)})
    for name, image in observation.images.items():
        np.testing.assert_array_equal(again.images[name], image)
    np.testing.assert_array_equal(again.proprio, [0, 0, 2, 0, 0, 0, 6, 7])
    assert again.instruction == "stack"
    assert ALOHA.observation(ALOHA.request(observation), {"left": (8, 8)}).images["left"].shape == (8, 8, 3)


def test_actions_change_units_both_ways() -> None:
    ours = np.array([[0.5, -1.0], [0.25, 1.0]], np.float32)
    answer = ALOHA.answer(ActionChunk(ours, np.zeros(0, np.float32), "v"))
    np.testing.assert_array_equal(answer["action"], [[0.5, 0.0], [0.25, 1.0]])
    np.testing.assert_array_equal(ALOHA.actions(answer), ours)
    np.testing.assert_array_equal(ALOHA.actions({"action": [3.0, 3.0]}), [[1.0, 1.0]])  # one action, cut to the range


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"task": 3}, r"task is 3 \(int\)"),
        (
            {"images": {"cam_left": np.zeros((2, 2, 3), np.uint8)}},
            r"images//cam_high is missing; there is \['cam_left'\]",
        ),
        ({"images": None}, "images//cam_high is missing; there is None"),
        ({"state": {"arm": np.zeros(3), "gripper": 0.0}}, "state//arm has 3 numbers; 2 are valid"),
        ({"state": {"arm": np.array([0, np.inf]), "gripper": 0.0}}, "state//arm is float64"),
        ({"state": {"arm": "far", "gripper": 0.0}}, "state//arm is 'far'"),
    ],
)
def test_a_wrong_request_names_its_key(change: dict[str, Any], complaint: str) -> None:
    request = ALOHA.request(seen(front=(32, 32), left=(20, 10)))
    with pytest.raises(ContractError, match=complaint):
        ALOHA.observation({**request, **change}, {})


@pytest.mark.parametrize(
    "image", [np.zeros((3, 16, 16), np.uint8), np.zeros((3, 32, 32), np.float32), np.zeros((32, 32, 3), np.uint8), "x"]
)
def test_a_wrong_picture_names_its_key(image: Any) -> None:
    request = ALOHA.request(seen(front=(32, 32), left=(20, 10)))
    request["images"]["cam_high"] = image
    with pytest.raises(ContractError, match="images//cam_high is"):
        ALOHA.observation(request, {})


@pytest.mark.parametrize(
    ("observation", "complaint"),
    [
        (seen(front=(8, 8)), "No camera 'left' for images//cam_left"),
        (Observation(seen(front=(8, 8), left=(8, 8)).images, np.zeros(7, np.float32)), r"written for .8,."),
    ],
)
def test_an_observation_that_lacks_something(observation: Observation, complaint: str) -> None:
    with pytest.raises(ContractError, match=complaint):
        ALOHA.request(observation)


def test_a_chunk_of_another_size() -> None:
    with pytest.raises(ContractError, match="action has 3 entries per action, action_scale 2"):
        ALOHA.actions({"action": np.zeros((4, 3))})


def test_own_keys_want_the_policys_cameras() -> None:
    keys, observation = OwnKeys(), seen(front=(8, 8))
    again = keys.observation(unpack(pack(keys.request(observation))), {"front": (8, 8)})
    np.testing.assert_array_equal(again.images["front"], observation.images["front"])
    with pytest.raises(ContractError, match="images//wrist is missing"):
        keys.observation(keys.request(observation), {"wrist": (8, 8)})
    with pytest.raises(ContractError, match=r"images//front is uint8 \(8, 8, 3\); valid are 9 x 8 pixels"):
        keys.observation(keys.request(observation), {"front": (9, 8)})


def test_padding_keeps_the_shape_and_stretching_fills() -> None:
    white = np.full((10, 20, 3), 255, np.uint8)
    padded = resized(white, 8, 8, "pad")
    assert padded.shape == (8, 8, 3)
    assert (padded[2:6] == 255).all()
    assert (padded[:2] == 0).all()
    assert (padded[6:] == 0).all()
    assert (resized(white, 8, 8, "stretch") == 255).all()


def test_a_crop_keeps_the_middle_and_cannot_be_served() -> None:
    image = np.zeros((20, 10, 3), np.uint8)
    image[5:15, 2:8] = 255
    key = ImageKey("front", crop=0.25)
    assert key.write(image).shape == (10, 5, 3)
    assert (key.write(image) == 255).all()
    with pytest.raises(ConfigError, match="crop image"):
        KeyMap({"image": key}, {}, 3).check({"front": (20, 10)})
    with pytest.raises(ConfigError, match="crop of 'front' is 0"):
        ImageKey("front", crop=0)


@pytest.mark.parametrize("name", sorted(path.stem for path in (config_root() / "policies").glob("*.yaml")))
def test_every_policy_file_that_ships_is_valid(name: str) -> None:
    assert name in policy_names()
    assert load_settings(name).action_horizon or name == "lerobot"  # its server says it
    assert isinstance(load_keys(name), KeyMap)


def test_a_file_of_ones_own_and_what_is_wrong_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("keys: {images: {}, state: {state: null}, proprio_dim: 3}\napi_key_variable: PLD_TEST_KEY\n")
    assert load_settings(str(path)).server == "ws://localhost:8000"
    monkeypatch.delenv("PLD_TEST_KEY", raising=False)
    with pytest.raises(ConfigError, match="PLD_TEST_KEY, which is not set"):
        bring.base_policy(f"openpi:{path}@ws://127.0.0.1:9")
    with pytest.raises(UnknownNameError, match="'libero'"):
        load_settings("libro")
    path.write_text("keys: {images: {}, state: {}, proprio_dim: 3, scale: 3}\n")
    with pytest.raises(UnknownNameError, match=r"keys\.scale"):
        load_settings(str(path))
    with pytest.raises(ConfigError, match="action_scale has 2 entries"):
        KeyMap({}, {}, 3, action_scale=(1.0, 1.0), action_offset=(0.0,))
    with pytest.raises(ConfigError, match="is 0"):
        KeyMap({}, {}, 3, action_scale=(1.0, 0.0))
    with pytest.raises(ConfigError, match="valid are 0 to 2"):
        KeyMap({}, {"state": (-1,)}, 3)
    with pytest.raises(ConfigError, match="give both"):
        ImageKey("front", height=4)
    with pytest.raises(ConfigError, match=r"has the camera.s. top, the keys name front, left"):
        ALOHA.check({"top": (4, 4), "left": (4, 4)})


def test_padding_and_mirroring_are_undone() -> None:
    key = ImageKey("front", 64, 64, mirror=True)
    picture = np.zeros((24, 32, 3), np.uint8)
    picture[:, :16] = 200
    written = key.write(picture)
    assert (written[:8] == 0).all()
    assert written[32, 60, 0] == 200
    assert written[32, 3, 0] == 0
    again = key.read("k", written, (24, 32))
    assert again.shape == (24, 32, 3)
    np.testing.assert_array_equal(again[:, :14], picture[:, :14])
    np.testing.assert_array_equal(again[:, 18:], picture[:, 18:])


def test_a_version_is_what_the_keys_give_and_stays_when_they_can_give_more() -> None:
    picture = ImageKey("front", 224, 224, fit="stretch")
    given: dict[str, Any] = {"images": {"a": picture}, "state": {"b": (0, 2), "c": None}, "proprio_dim": 3}
    keys = KeyMap(**given, action_scale=(1.0, -2.0))
    assert hashed(keys) == "e284305c6a99"
    assert hashed(OwnKeys(), pack({"action_horizon": 2})) == "68adfa2c6f9e"
    more = [("gain", float, 1.0), ("names", dict, dataclasses.field(default_factory=dict))]
    later = dataclasses.make_dataclass("Later", more, bases=(KeyMap,), frozen=True)
    pictures = dataclasses.make_dataclass("Pictures", more, bases=(ImageKey,), frozen=True)
    given["images"] = {"a": pictures("front", 224, 224, fit="stretch", crop=1.0)}
    assert hashed(later(**given, action_scale=(1.0, -2.0), constants={})) == hashed(keys)
    assert hashed(later(**given, action_scale=(1.0, -2.0), gain=2.0)) != hashed(keys)
    others = [keys, OwnKeys(), *(dataclasses.replace(keys, **{name: "x"}) for name in ("prompt", "action"))]
    others += [
        dataclasses.replace(keys, images={"a": ImageKey("front", 224, 224)}),
        dataclasses.replace(keys, state={}),
    ]
    assert len({hashed(each) for each in others}) == len(others)
