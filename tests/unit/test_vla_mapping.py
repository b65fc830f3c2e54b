"""Policy strings and pld.yaml: what they mean, and what is said of mistakes in them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pld_core.errors import ConfigError, UnknownNameError
from pld_core.types import Observation
from pld_core.vla.robot_mapping import (
    ActionMapping,
    CameraMapping,
    RobotMapping,
    TokenMapping,
    read_mapping,
    write_mapping,
)
from pld_core.vla.torch.inputs import content_seed, resize_with_pad
from pld_core.vla.torch.settings import Source

_MAPPING = RobotMapping(3, (CameraMapping("front", 4, 6, "b"), CameraMapping("wrist", 4, 4, turned=True)), (2, 0))


def _observation() -> Observation:
    images = {"front": np.arange(72, dtype=np.uint8).reshape(4, 6, 3), "wrist": np.eye(4, dtype=np.uint8)[..., None]}
    images["wrist"] = images["wrist"].repeat(3, axis=2) * np.arange(4, dtype=np.uint8)[:, None, None]
    return Observation(images, np.array([1.0, 2.0, 3.0], np.float32), "go")


def test_policy_strings() -> None:
    assert Source.parse("lerobot/pi0_base") == Source("lerobot/pi0_base")
    parsed = Source.parse("/models/a b?device=cuda:1&dtype=bfloat16&batch=10&unnorm_key=7&mapping=my.yaml")
    assert parsed == Source("/models/a b", "cuda:1", "bfloat16", 10, Path("my.yaml"), "", "7")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("x?unorm_key=y", "Did you mean 'unnorm_key'"),
        ("x?dtype=float16", "bfloat16"),
        ("x?batch=many", "batch"),
        ("?batch=2", "path or hub id"),
    ],
)
def test_wrong_policy_strings(argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Source.parse(argument)


def test_mapping_survives_its_file(tmp_path: Path) -> None:
    mapping = dataclasses.replace(_MAPPING, action=ActionMapping(2, (0.5, 0.1), None), tokens=TokenMapping(bins=32))
    write_mapping(mapping, tmp_path)
    assert read_mapping(tmp_path) == mapping


def test_mapping_in_json(tmp_path: Path) -> None:
    cameras = (CameraMapping("a", 1, 2),)
    (tmp_path / "m.json").write_text('{"proprio_dim": 2, "cameras": [{"camera": "a", "height": 1, "width": 2}]}')
    source = Source("x", batch=3, mapping=tmp_path / "m.json")
    assert source.mapping_of(tmp_path) == RobotMapping(2, cameras, batch=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("proprio_dim: 3\ncamera: []", r"Did you mean 'cameras'"),
        ("cameras: []", "proprio_dim"),
        ("{proprio_dim: 3, cameras: []}", "at least one"),
        ("{proprio_dim: 3, cameras: [{camera: a, height: 1}]}", r"cameras\[0\].*width"),
        ("{proprio_dim: 3, state: [0, 3], cameras: [{camera: a, height: 1, width: 1}]}", r"entries \[3\]"),
        ("{proprio_dim: 3, horizon: 0, cameras: [{camera: a, height: 1, width: 1}]}", "horizon"),
        ("action: {dim: 3}", "action.gripper"),
        ("action: {scale: [1, 2]}", r"action\.scale needs 7"),
        ("action: {gripper_open: -1}", "gripper_closed"),
        ("tokens: {prompt: go}", "instruction"),
        ("tokens: {prompt: '{instruction} {0}'}", "only"),
        ("{proprio_dim: 3, batch: 0, cameras: [{camera: a, height: 1, width: 1}]}", "batch"),
    ],
)
def test_mistakes_in_the_mapping(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "pld.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_mapping(tmp_path)


def test_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pld\.yaml does not exist.*docs/policies\.md"):
        read_mapping(tmp_path)


def test_actions_in_the_checkpoints_units() -> None:
    """Bridge's: metres, radians, gripper 1 open and 0 closed."""
    mapping = ActionMapping(scale=(0.01,) * 3 + (0.08,) * 3 + (9.0,), gripper_open=1.0, gripper_closed=0.0)
    actions = np.array([[1.0, -1.0, 0.5, 1.0, 0.0, -0.5, -1.0], [0.0] * 6 + [1.0]], np.float32)
    there = mapping.to_model(actions)
    np.testing.assert_allclose(there[0], [0.01, -0.01, 0.005, 0.08, 0.0, -0.04, 0.0], atol=1e-7)
    assert there[1, 6] == 1.0
    np.testing.assert_allclose(mapping.from_model(there), actions, atol=1e-6)
    wide = np.pad(there * 100, [(0, 0), (0, 25)])
    assert mapping.from_model(wide).shape == (2, 7)
    assert np.abs(mapping.from_model(wide)).max() == 1.0


def test_inverted_gripper() -> None:
    """LIBERO's: -1 open, 1 closed."""
    mapping = ActionMapping(gripper_open=-1.0, gripper_closed=1.0)
    np.testing.assert_array_equal(mapping.to_model(np.ones(7))[5:], [1.0, -1.0])


def test_observations_as_the_checkpoint_sees_them() -> None:
    seen = _observation()
    np.testing.assert_array_equal(_MAPPING.state_of(seen), [3.0, 1.0])
    front, wrist = _MAPPING.pictures(seen)
    np.testing.assert_array_equal(front, seen.images["front"])
    np.testing.assert_array_equal(wrist, seen.images["wrist"][::-1, ::-1])


def test_cameras_go_to_their_slots() -> None:
    ordered = _MAPPING.in_slots(("a", "c", "b"), "x").cameras
    assert [camera.camera for camera in ordered] == ["wrist", "front"]
    with pytest.raises(UnknownNameError, match=r"image slot of x.*'b'"):
        _MAPPING.in_slots(("a", "c"), "x")
    with pytest.raises(ConfigError, match="share"):
        _MAPPING.in_slots(("a", "b"), "x")
    with pytest.raises(ConfigError, match="sees 1 cameras"):
        _MAPPING.in_slots(("b",), "x")


def test_pictures_are_padded_not_stretched() -> None:
    wide = np.full((10, 40, 3), 200, np.uint8)
    padded = resize_with_pad(wide, 20)
    assert padded.shape == (20, 20, 3)
    assert (padded[:7] == 0).all()
    assert (padded[8:12] == 200).all()
    assert (padded[13:] == 0).all()
    tall = resize_with_pad(wide.transpose(1, 0, 2), 20)
    np.testing.assert_array_equal(tall, padded.transpose(1, 0, 2))
    square = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(resize_with_pad(square, 2), square)


def test_noise_depends_on_what_is_seen_alone() -> None:
    seen = _observation()
    seed = content_seed(seen, _MAPPING)
    same = dataclasses.replace(seen, stamp_ns={"front": 7}, proprio=np.array([1.0, -9.0, 3.0], np.float32))
    assert content_seed(same, _MAPPING) == seed  # the entry in the middle is not the checkpoint's
    image = seen.images["front"].copy()
    image[0, 0, 0] += 1
    others = [
        dataclasses.replace(seen, images={**seen.images, "front": image}),
        dataclasses.replace(seen, instruction="stop"),
        dataclasses.replace(seen, proprio=np.array([1.0, 2.0, 4.0], np.float32)),
    ]
    assert len({seed, *(content_seed(other, _MAPPING) for other in others)}) == 4
