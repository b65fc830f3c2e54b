"""Which of our cameras and numbers a served policy wants under which names, and what its actions mean here.

Used in both directions: a client writes requests and reads answers with it, a server the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from pld_core.errors import ConfigError, ContractError
from pld_core.types import ActionChunk, Observation

Sizes = Mapping[str, tuple[int, int]]  # height and width of each camera that a policy needs; empty: not known
LEVELS = "//"  # "images//cam_high" is the entry cam_high of the map under images


class Keys(Protocol):
    """How observations and chunks are written."""

    def request(self, observation: Observation) -> dict[str, Any]: ...

    def observation(self, request: Mapping[str, Any], cameras: Sizes) -> Observation:
        """For a policy with these cameras; raises ContractError that names the key which is missing or wrong."""
        ...

    def check(self, cameras: Sizes) -> None:
        """Raises ConfigError where requests can never have what a policy with these cameras needs."""
        ...

    def answer(self, chunk: ActionChunk) -> dict[str, Any]: ...

    def actions(self, answer: Mapping[str, Any]) -> np.ndarray:
        """``[H, A]``, float32, in our units; raises ContractError."""
        ...


@dataclass(frozen=True)
class ImageKey:
    """One of our cameras as a policy wants it: ``[height, width, 3]``, or ``[3, height, width]``, always uint8 RGB.

    Without a size it goes as it is. pad: black borders keep its shape; stretch: there are none. mirror: left and right
    change places.
    """

    camera: str
    height: int | None = None
    width: int | None = None
    fit: Literal["pad", "stretch"] = "pad"
    mirror: bool = False
    channels_first: bool = False

    def __post_init__(self) -> None:
        if (self.height is None) != (self.width is None) or min(self.height or 1, self.width or 1) < 1:
            raise ConfigError(
                f"The picture of {self.camera!r} has height {self.height} and width {self.width}; give both, from 1 "
                "on, or neither."
            )

    def write(self, image: np.ndarray) -> np.ndarray:
        if self.height and self.width and image.shape[:2] != (self.height, self.width):
            image = resized(image, self.height, self.width, self.fit)
        image = image[:, ::-1] if self.mirror else image
        return np.ascontiguousarray(image.transpose(2, 0, 1) if self.channels_first else image)

    def read(self, key: str, image: Any, size: tuple[int, int] | None = None) -> np.ndarray:
        """What ``write`` made of one of our pictures, ``[height, width, 3]``; of ``size``, where that is known."""
        axis = 0 if self.channels_first else -1
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.dtype != np.uint8 or image.shape[axis] != 3:
            shape = "[3, height, width]" if self.channels_first else "[height, width, 3]"
            raise ContractError(f"{key} is {_described(image)}; valid is a picture, uint8 {shape}.")
        picture = image.transpose(1, 2, 0) if self.channels_first else image
        if self.height and self.width and picture.shape[:2] != (self.height, self.width):
            raise ContractError(f"{key} is {_described(image)}; valid are {self.height} x {self.width} pixels.")
        picture = picture[:, ::-1] if self.mirror else picture
        if size is None or picture.shape[:2] == size:
            return picture
        return resized(without_borders(picture, size) if self.fit == "pad" else picture, *size, "stretch")


@dataclass(frozen=True)
class KeyMap:
    """images: by key; state: entries of our proprioception by key (null: all of them), in that order; proprio_dim: how
    many entries ours has.

    Ours is ``scale * theirs + offset`` for each entry of an action, cut to [-1, 1]; empty: the same. Implements Keys.
    """

    images: Mapping[str, ImageKey]
    state: Mapping[str, tuple[int, ...] | None]
    proprio_dim: int
    prompt: str = "prompt"
    action: str = "actions"
    action_scale: tuple[float, ...] = ()
    action_offset: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        scale, offset = self.action_scale, self.action_offset
        if len(scale) != len(offset) and scale and offset:
            raise ConfigError(f"action_scale has {len(scale)} entries and action_offset {len(offset)}; give as many.")
        for key, entries in self.state.items():
            if entries is not None and not all(0 <= entry < self.proprio_dim for entry in entries):
                raise ConfigError(
                    f"state {key} takes entries {list(entries)} of a proprio of {self.proprio_dim}; valid are 0 to "
                    f"{self.proprio_dim - 1}."
                )
        if 0.0 in scale:
            raise ConfigError("An entry of action_scale is 0, so that nothing of the policy's action would be left.")

    def request(self, observation: Observation) -> dict[str, Any]:
        message: dict[str, Any] = {}
        for key, wanted in self.images.items():
            if wanted.camera not in observation.images:
                raise ContractError(
                    f"No camera {wanted.camera!r} for {key}; the observation has {sorted(observation.images)}. "
                    "Correct images in the policy's keys."
                )
            _put(message, key, wanted.write(_picture(wanted.camera, observation.images[wanted.camera])))
        proprio = finite_proprio(observation)
        if proprio.shape != (self.proprio_dim,):
            raise ContractError(
                f"The proprio has shape {proprio.shape}; the policy's keys are written for ({self.proprio_dim},), "
                "their proprio_dim. Give a file that fits this robot."
            )
        for key, entries in self.state.items():
            _put(message, key, proprio if entries is None else proprio[list(entries)])
        _put(message, self.prompt, observation.instruction)
        return message

    def observation(self, request: Mapping[str, Any], cameras: Sizes) -> Observation:
        images = {
            wanted.camera: wanted.read(key, _get(request, key), cameras.get(wanted.camera))
            for key, wanted in self.images.items()
        }
        return Observation(images, self._proprio(request), _text(request, self.prompt))

    def _proprio(self, request: Mapping[str, Any]) -> np.ndarray:
        proprio = np.zeros(self.proprio_dim, np.float32)
        for key, entries in self.state.items():
            given = numbers(key, _get(request, key))
            size = self.proprio_dim if entries is None else len(entries)
            if len(given) != size:
                raise ContractError(f"{key} has {len(given)} numbers; {size} are valid.")
            proprio[slice(None) if entries is None else list(entries)] = given
        return proprio

    def check(self, cameras: Sizes) -> None:
        named = sorted(wanted.camera for wanted in self.images.values())
        if missing := sorted(set(cameras) - set(named)):
            raise ConfigError(
                f"The policy has the camera(s) {', '.join(missing)}, the keys name {', '.join(named) or 'none'}. "
                "Give --keys that fit it."
            )

    def answer(self, chunk: ActionChunk) -> dict[str, Any]:
        scale, offset = self._affine(chunk.actions.shape[1])
        message: dict[str, Any] = {}
        _put(message, self.action, ((chunk.actions - offset) / scale).astype(np.float32))
        return message

    def actions(self, answer: Mapping[str, Any]) -> np.ndarray:
        theirs = chunk_of(self.action, _get(answer, self.action))
        scale, offset = self._affine(theirs.shape[1])
        return np.clip(scale * theirs + offset, -1.0, 1.0).astype(np.float32)

    def _affine(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        scale, offset = np.array(self.action_scale or [1.0] * size), np.array(self.action_offset or [0.0] * size)
        for name, given in (("action_scale", scale), ("action_offset", offset)):
            if len(given) != size:
                raise ContractError(
                    f"{self.action} has {size} entries per action, {name} {len(given)}; make them equal."
                )
        return scale, offset


class OwnKeys:
    """Observations as they are, under ``images``, ``state`` and ``prompt``; features come back too. Implements Keys."""

    def __repr__(self) -> str:
        return "OwnKeys()"

    def request(self, observation: Observation) -> dict[str, Any]:
        images = {name: _picture(name, image) for name, image in observation.images.items()}
        return {"images": images, "state": finite_proprio(observation), "prompt": observation.instruction}

    def observation(self, request: Mapping[str, Any], cameras: Sizes) -> Observation:
        given = request.get("images", {})
        if not isinstance(given, Mapping):
            raise ContractError(f"images is {_described(given)}; valid is a map of pictures by camera.")
        wanted = {name: ImageKey(name, *cameras.get(name, (None, None))) for name in {*cameras, *given}}
        images = {name: key.read(_own(name), _get(request, _own(name))) for name, key in wanted.items()}
        return Observation(images, numbers("state", _get(request, "state")), _text(request, "prompt"))

    def check(self, cameras: Sizes) -> None:
        """A client's cameras have the policy's names."""

    def answer(self, chunk: ActionChunk) -> dict[str, Any]:
        return {"actions": chunk.actions, "features": chunk.features}

    def actions(self, answer: Mapping[str, Any]) -> np.ndarray:
        return chunk_of("actions", _get(answer, "actions"))


def _own(camera: str) -> str:
    return f"images{LEVELS}{camera}"


def finite_proprio(observation: Observation) -> np.ndarray:
    proprio = np.asarray(observation.proprio, np.float32)
    if not np.isfinite(proprio).all():
        raise ContractError(f"The proprioception holds NaN or infinity: {proprio.tolist()}.")
    return proprio


def numbers(key: str, value: Any) -> np.ndarray:
    """float32 ``[N]``; a single number is one of length 1."""
    array = _float32(value)
    array = array[None] if array is not None and array.ndim == 0 else array
    if array is None or array.ndim != 1:
        raise ContractError(f"{key} is {_described(value)}; valid are finite numbers, float32 [N].")
    return array


def chunk_of(key: str, value: Any) -> np.ndarray:
    """Actions float32 ``[H, A]`` of an answer; one action is a chunk of length 1."""
    array = _float32(value)
    array = array[None] if array is not None and array.ndim == 1 else array
    if array is None or array.ndim != 2 or array.size == 0:
        raise ContractError(f"{key} of the server's answer is {_described(value)}; valid are finite actions [H, A].")
    return array


def _float32(value: Any) -> np.ndarray | None:
    """None for what is no array of numbers, or none that is finite as float32."""
    if not isinstance(value, (np.ndarray, np.generic, float, int, list)):
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # of lists of different lengths
        return None
    if array.dtype.kind not in "iuf":
        return None
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    return array if np.isfinite(array).all() else None


def without_borders(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What is left of a padded picture of a camera of ``size`` when its black borders are cut off."""
    height, width = image.shape[:2]
    ratio = min(height / size[0], width / size[1])
    inner = round(size[0] * ratio), round(size[1] * ratio)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    return np.ascontiguousarray(image[top : top + inner[0], left : left + inner[1]])


def resized(image: np.ndarray, height: int, width: int, fit: str) -> np.ndarray:
    """uint8 ``[height, width, 3]``, bilinear; with ``pad`` as large as fits, in the middle of black."""
    source_height, source_width = image.shape[:2]
    ratio = min(height / source_height, width / source_width)
    inner = (width, height) if fit == "stretch" else (round(source_width * ratio), round(source_height * ratio))
    scaled = np.asarray(Image.fromarray(image).resize(inner, Image.Resampling.BILINEAR))
    if fit == "stretch":
        return scaled
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - scaled.shape[0]) // 2, (width - scaled.shape[1]) // 2
    canvas[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    return canvas


def _picture(camera: str, image: Any) -> np.ndarray:
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ContractError(f"Camera {camera!r} gives {_described(array)}; valid is uint8 [height, width, 3].")
    return array


def _text(request: Mapping[str, Any], key: str) -> str:
    value = _get(request, key)
    if not isinstance(value, str):
        raise ContractError(f"{key} is {_described(value)}; valid is the instruction as text.")
    return value


def _put(message: dict[str, Any], key: str, value: Any) -> None:
    *levels, last = key.split(LEVELS)
    for level in levels:
        message = message.setdefault(level, {})
    message[last] = value


def _get(message: Mapping[str, Any], key: str) -> Any:
    found: Any = message
    for level in key.split(LEVELS):
        if not isinstance(found, Mapping) or level not in found:
            there = sorted(map(str, found)) if isinstance(found, Mapping) else _described(found)
            raise ContractError(f"{key} is missing; there is {there}.")
        found = found[level]
    return found


def _described(value: Any) -> str:
    if isinstance(value, (np.ndarray, np.generic)):
        return f"{value.dtype} {value.shape}"
    text = repr(value)
    return f"{text[:60]}... ({type(value).__name__})" if len(text) > 60 else f"{text} ({type(value).__name__})"
