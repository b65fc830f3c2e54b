"""Between ROS messages and the types of the core."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose
from pld_msgs.msg import ActionChunk as ActionChunkMsg
from pld_msgs.msg import EpisodeSpec as EpisodeSpecMsg
from sensor_msgs.msg import Image

from pld_core.errors import ContractError
from pld_core.types import ActionChunk, EpisodeSpec

NO_T_BASE = -1
_NANOSECONDS = 1_000_000_000


def time_msg(stamp_ns: int) -> Time:
    return Time(sec=stamp_ns // _NANOSECONDS, nanosec=stamp_ns % _NANOSECONDS)


def nanoseconds(stamp: Time) -> int:
    return stamp.sec * _NANOSECONDS + stamp.nanosec


def id_of(goal: Any) -> str:
    """The id of an action's goal, from its handle at the client or the server, hexadecimal."""
    return bytes(goal.goal_id.uuid).hex()


def floats(values: np.ndarray) -> array[float]:
    """A float32 sequence for a message; about 50 times faster than a list."""
    return array("f", np.ascontiguousarray(values, np.float32).tobytes())


def vector(values: Sequence[float]) -> np.ndarray:
    """float32 ``[N]`` of a message's sequence, as a copy."""
    return np.array(values, np.float32)


def put_pose(pose: Pose, position: np.ndarray, quaternion: np.ndarray) -> None:
    """position: ``[3]`` metres; quaternion: ``[4]`` (w, x, y, z)."""
    pose.position.x, pose.position.y, pose.position.z = map(float, position)
    w, x, y, z = map(float, quaternion)
    pose.orientation.w, pose.orientation.x, pose.orientation.y, pose.orientation.z = w, x, y, z


def image_msg(frame: np.ndarray, stamp_ns: int, frame_id: str) -> Image:
    """uint8 RGB ``[h, w, 3]`` as a message."""
    message = Image(height=frame.shape[0], width=frame.shape[1], encoding="rgb8", step=3 * frame.shape[1])
    message.header.stamp = time_msg(stamp_ns)
    message.header.frame_id = frame_id
    message.data = array("B", np.ascontiguousarray(frame).tobytes())
    return message


def image_array(message: Image) -> np.ndarray:
    """uint8 RGB ``[h, w, 3]``, a view of the message."""
    if message.encoding != "rgb8":
        raise ContractError(f"An image has encoding {message.encoding!r}; PLD's cameras send rgb8.")
    height, width = message.height, message.width
    if message.step != 3 * width or len(message.data) != 3 * width * height:
        raise ContractError(
            f"An image of {width} x {height} pixels has {len(message.data)} bytes in rows of {message.step}; "
            f"PLD's cameras send {3 * width * height} bytes in rows of {3 * width}."
        )
    return np.frombuffer(message.data, np.uint8).reshape(height, width, 3)


def spec_msg(spec: EpisodeSpec) -> EpisodeSpecMsg:
    return EpisodeSpecMsg(
        task=spec.task, seed=spec.seed, mode=spec.mode, t_base=NO_T_BASE if spec.t_base is None else spec.t_base,
        xi=float(spec.xi), explore=spec.explore, noise_ticks=spec.noise_ticks, record_images=spec.record_images,
    )  # fmt: skip


def spec_of(message: EpisodeSpecMsg) -> EpisodeSpec:
    return EpisodeSpec(
        message.task, message.seed, message.mode,  # type: ignore[arg-type]
        None if message.t_base == NO_T_BASE else message.t_base, message.xi, message.explore,
        message.noise_ticks, message.record_images,
    )  # fmt: skip


def chunk_msg(chunk: ActionChunk, stamps: Mapping[str, int], inference_ms: float) -> ActionChunkMsg:
    message = ActionChunkMsg(
        horizon=chunk.actions.shape[0], dim=chunk.actions.shape[1], actions=floats(chunk.actions.reshape(-1)),
        features=floats(chunk.features), policy_version=chunk.policy_version, inference_ms=inference_ms,
    )  # fmt: skip
    message.header.stamp = time_msg(max(stamps.values()))
    put_stamps(message, stamps)
    return message


def chunk_of(message: ActionChunkMsg) -> ActionChunk:
    actions = vector(message.actions).reshape(message.horizon, message.dim)
    stamp = nanoseconds(message.header.stamp)
    return ActionChunk(actions, vector(message.features), message.policy_version, stamp)


def put_stamps(message: Any, stamps: Mapping[str, int]) -> None:
    """Fill ``sources`` and ``stamps`` of a message that has them."""
    message.sources = list(stamps)
    message.stamps = [time_msg(stamp) for stamp in stamps.values()]


def stamps_of(message: Any) -> dict[str, int]:
    """Capture time in nanoseconds per source."""
    return {source: nanoseconds(stamp) for source, stamp in zip(message.sources, message.stamps, strict=True)}
