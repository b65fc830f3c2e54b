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

    def answer(self, chunk: ActionChunk) -> dict[str, Any]: ...

    def actions(self, answer: Mapping[str, Any]) -> np.ndarray:
        """``[H, A]``, float32, in our units; raises ContractError."""
        ...


@dataclass(frozen=True)
class ImageKey:
    """One of our cameras as a policy wants it: ``[height, width, 3]``, or ``[3, height, width]``, always uint8 RGB.

    Without a size it goes as it is. pad: black borders keep its shape; stretch: they do not exist.
    """

    camera: str
    height: int | None = None
    width: int | None = None
    fit: Literal["pad", "stretch"] = "pad"
    channels_first: bool = False

    def write(self, image: np.ndarray) -> np.ndarray:
        if self.height and self.width and image.shape[:2] != (self.height, self.width):
            image = resized(image, self.height, self.width, self.fit)
        return np.ascontiguousarray(image.transpose(2, 0, 1)) if self.channels_first else image

    def read(self, key: str, image: Any) -> np.ndarray:
        axis = 0 if self.channels_first else -1
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.dtype != np.uint8 or image.shape[axis] != 3:
            shape = "[3, height, width]" if self.channels_first else "[height, width, 3]"
            raise ContractError(f"{key} is {_described(image)}; valid is a picture, uint8 {shape}.")
        picture = image.transpose(1, 2, 0) if self.channels_first else image
        if self.height and self.width and picture.shape[:2] != (self.height, self.width):
            raise ContractError(f"{key} is {_described(image)}; valid are {self.height} x {self.width} pixels.")
        return picture


@dataclass(frozen=True)
class KeyMap:
    """images: by key; state: entries of our proprioception by key (null: all of them), in that order.

    Ours is ``scale * theirs + offset`` for each entry of an action, cut to [-1, 1]; empty: the same. Implements Keys.
    """

    images: Mapping[str, ImageKey]
    state: Mapping[str, tuple[int, ...] | None]
    prompt: str = "prompt"
    action: str = "actions"
    action_scale: tuple[float, ...] = ()
    action_offset: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        scale, offset = self.action_scale, self.action_offset
        if len(scale) != len(offset) and scale and offset:
            raise ConfigError(f"action_scale has {len(scale)} entries and action_offset {len(offset)}; give as many.")
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
        for key, entries in self.state.items():
            if entries is not None and max(entries, default=0) >= len(proprio):
                raise ContractError(
                    f"{key} wants entry {max(entries)} of a proprio of shape {proprio.shape}. Correct state in the "
                    "policy's keys."
                )
            _put(message, key, proprio if entries is None else proprio[list(entries)])
        _put(message, self.prompt, observation.instruction)
        return message

    def observation(self, request: Mapping[str, Any], cameras: Sizes) -> Observation:
        images = {wanted.camera: wanted.read(key, _get(request, key)) for key, wanted in self.images.items()}
        for name, (height, width) in cameras.items():
            if name in images and images[name].shape[:2] != (height, width):  # clients send what a large VLA wants
                images[name] = resized(images[name], height, width, "stretch")
        return Observation(images, self._proprio(request), _text(request, self.prompt))

    def _proprio(self, request: Mapping[str, Any]) -> np.ndarray:
        parts = {key: numbers(key, _get(request, key)) for key in self.state}
        if None in self.state.values() and len(parts) == 1:
            return next(iter(parts.values()))
        size = 1 + max((entry for entries in self.state.values() for entry in entries or ()), default=-1)
        proprio = np.zeros(size, np.float32)
        for key, entries in self.state.items():
            if len(parts[key]) != len(entries or ()):
                raise ContractError(f"{key} has {len(parts[key])} numbers; {len(entries or ())} are valid.")
            proprio[list(entries or ())] = parts[key]
        return proprio

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
    array = np.atleast_1d(np.asarray(value)) if isinstance(value, (np.ndarray, np.generic, float, int, list)) else None
    if array is None or array.ndim != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise ContractError(f"{key} is {_described(value)}; valid are finite numbers, float32 [N].")
    return array.astype(np.float32)


def chunk_of(key: str, value: Any) -> np.ndarray:
    """Actions float32 ``[H, A]`` of an answer; one action is a chunk of length 1."""
    array = np.asarray(value) if isinstance(value, (np.ndarray, list)) else np.zeros(0)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise ContractError(f"{key} of the server's answer is {_described(value)}; valid are finite actions [H, A].")
    return array.astype(np.float32)


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
