"""What a frame of the dataset holds: LeRobot's usual keys, and ours under ``pld.``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pld_core.errors import ConfigError, ContractError
from pld_core.types import ActionSpec, Episode

Feature = dict[str, Any]  # {"dtype": ..., "shape": [...], "names": ...}, as in info.json
Columns = dict[str, np.ndarray]  # {key: [T] or [T, n]}

CAMERA_PREFIX = "observation.images."
STATE, ACTION, REWARD, DONE, SUCCESS = "observation.state", "action", "next.reward", "next.done", "next.success"
NORMALISED = "pld.action"  # only where ``action`` has other units: what was executed, in [-1, 1]

# key -> (column of Episode, type); the first T rows of each
_COLUMNS = {
    STATE: ("proprio", "float32"),
    ACTION: ("action", "float32"),
    REWARD: ("reward", "float32"),
    "pld.state": ("state", "float32"),
    "pld.base_action": ("base_action", "float32"),
    "pld.residual": ("residual", "float32"),
    "pld.source": ("source", "uint8"),
    "pld.intervention": ("intervention", "bool"),
}
COLUMN_OF = {name: key for key, (name, _) in _COLUMNS.items()}
INDICES = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64"}
TASK_INDEX = "task_index"


@dataclass(frozen=True)
class DatasetSpec:
    """What the episodes do not say of themselves.

    actions: units and rate; the rate must be whole, as LeRobot counts frames per second. units: of ``action``,
    ``normalised`` [-1, 1] or ``metric``, metres and radians per tick (the gripper stays: +1 open, -1 closed).
    """

    actions: ActionSpec = field(default_factory=ActionSpec)
    proprio_names: tuple[str, ...] = ()
    robot_type: str = ""
    units: Literal["normalised", "metric"] = "normalised"
    codec: Literal["h264", "av1"] = "h264"

    def __post_init__(self) -> None:
        if self.actions.rate_hz != self.fps or self.fps < 1:
            raise ConfigError(
                f"A LeRobot dataset has a whole number of frames per second, the rate is {self.actions.rate_hz} Hz. "
                "Give the nearest whole one with --fps."
            )

    @property
    def fps(self) -> int:
        return round(self.actions.rate_hz)

    def scale(self) -> np.ndarray:
        """Units of ``action`` per normalised one, float32 ``[A]``."""
        actions = self.actions
        scale = np.ones(actions.dim, np.float32)
        if self.units == "metric":
            scale[:] = actions.translation_m
            scale[list(actions.rotation)] = actions.rotation_rad
            if actions.gripper is not None:
                scale[actions.gripper] = 1.0
        return scale


def features_of(episode: Episode, spec: DatasetSpec) -> dict[str, Feature]:
    """``features`` of info.json. Raises ContractError for columns of another type or shape than Episode documents."""
    features = {CAMERA_PREFIX + name: _camera(frames, spec) for name, frames in sorted(episode.images.items())}
    for key, (name, dtype) in _COLUMNS.items():
        features[key] = _column(name, np.asarray(getattr(episode, name)), dtype, len(episode))
    if spec.units == "metric":
        features[NORMALISED] = dict(features[ACTION])
    _name(features, spec)
    plain = {DONE: "bool", SUCCESS: "bool", **INDICES, TASK_INDEX: "int64"}
    return features | {key: _feature(dtype, [1]) for key, dtype in plain.items()}


def rows_of(episode: Episode, spec: DatasetSpec, number: int, first: int, task: int) -> Columns:
    """The columns of one episode's ``T`` frames. number: of the episode; first: frames before it; task: its index."""
    ticks = len(episode)
    columns = {key: np.asarray(getattr(episode, name))[:ticks] for key, (name, _) in _COLUMNS.items()}
    if spec.units == "metric":
        columns[NORMALISED] = columns[ACTION]
        columns[ACTION] = columns[ACTION] * spec.scale()
    last = np.arange(ticks) == ticks - 1
    return columns | {
        DONE: last & (episode.terminated or episode.truncated),
        SUCCESS: last & episode.success,
        "timestamp": (np.arange(ticks) / spec.fps).astype(np.float32),
        "frame_index": np.arange(ticks),
        "episode_index": np.full(ticks, number),
        "index": first + np.arange(ticks),
        TASK_INDEX: np.full(ticks, task),
    }


def table_of(columns: Columns, features: Mapping[str, Feature]) -> pa.Table:
    """An Arrow table with a row per frame; vectors as lists of fixed length, vectors of one number as the number."""
    arrays = {key: _array(columns[key], features[key]) for key in features if features[key]["dtype"] != "video"}
    return pa.table(arrays)


def video_keys(features: Mapping[str, Feature]) -> list[str]:
    return [key for key, feature in features.items() if feature["dtype"] == "video"]


def same_features(given: Mapping[str, Feature], present: Mapping[str, Feature]) -> None:
    """Raise ContractError, naming the keys, where an episode does not fit the dataset that it shall go into."""
    for key in sorted({*given, *present}):
        mine, theirs = given.get(key), present.get(key)
        if mine is None or theirs is None:
            lacking = "the episode has none" if mine is None else "the dataset has none"
            raise ContractError(f"All episodes of a dataset have the same keys; {key!r}: {lacking}.")
        if (mine["dtype"], list(mine["shape"])) != (theirs["dtype"], list(theirs["shape"])):
            raise ContractError(
                f"All episodes of a dataset have equal shapes; {key!r} is {mine['dtype']} {list(mine['shape'])} in the "
                f"episode and {theirs['dtype']} {list(theirs['shape'])} in the dataset."
            )


def _feature(dtype: str, shape: list[int]) -> Feature:
    return {"dtype": dtype, "shape": shape, "names": None}


def _column(name: str, values: np.ndarray, dtype: str, ticks: int) -> Feature:
    if values.dtype != dtype or len(values) not in (ticks, ticks + 1) or values.ndim not in (1, 2):
        raise ContractError(
            f"The episode's {name} is {values.dtype} {list(values.shape)}; it must be {dtype} with a row for each of "
            f"its {ticks} ticks (see Episode in pld_core/types.py)."
        )
    return _feature(dtype, [values.shape[1] if values.ndim == 2 else 1])


def _camera(frames: np.ndarray, spec: DatasetSpec) -> Feature:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ContractError(f"Images must be uint8 [T+1, height, width, 3]; got {frames.dtype} {list(frames.shape)}.")
    _, height, width, _ = frames.shape
    return {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.channels": 3,
            "video.codec": spec.codec,
            "video.pix_fmt": pixel_format(height, width),
            "video.fps": spec.fps,
            "video.is_depth_map": False,
            "has_audio": False,
        },
    }


def pixel_format(height: int, width: int) -> str:
    """Half the colour resolution needs even sizes; odd ones keep all of it instead of being padded."""
    return "yuv444p" if height % 2 or width % 2 else "yuv420p"


def _name(features: dict[str, Feature], spec: DatasetSpec) -> None:
    size = features[STATE]["shape"][0]
    if len(spec.proprio_names) == size:
        features[STATE]["names"] = list(spec.proprio_names)
    if spec.actions.rotation and features[ACTION]["shape"] == [7]:
        for key in (ACTION, NORMALISED, "pld.base_action", "pld.residual"):
            if key in features:
                features[key]["names"] = ["x", "y", "z", "rx", "ry", "rz", "gripper"]


def _array(values: np.ndarray, feature: Feature) -> pa.Array:
    kind = pa.from_numpy_dtype(np.dtype(feature["dtype"]))
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind)
    size = feature["shape"][0]
    return flat if size == 1 else pa.FixedSizeListArray.from_arrays(flat, size)
