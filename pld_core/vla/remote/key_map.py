"""Which of our cameras and numbers a served policy wants under which names, and what its actions mean here.

Used in both directions: a client writes requests and reads answers with it, a server the other way round.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, Protocol

import numpy as np

from pld_core.errors import ConfigError, ContractError
from pld_core.types import ActionChunk, Observation
from pld_core.vla.remote.image_key import ImageKey, described

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
class KeyMap:
    """images: by key; state: entries of our proprioception by key (null: all of them), in that order; proprio_dim: how
    many entries ours has; constants: what every request holds besides, such as OpenVLA's unnorm_key.

    Ours is ``scale * theirs + offset`` for each entry of an action, cut to [-1, 1]; empty: the same. Implements Keys.
    """

    images: Mapping[str, ImageKey]
    state: Mapping[str, tuple[int, ...] | None]
    proprio_dim: int
    prompt: str = "prompt"
    action: str = "actions"
    action_scale: tuple[float, ...] = ()
    action_offset: tuple[float, ...] = ()
    constants: Mapping[str, str] = field(default_factory=dict)

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
        for key, value in self.constants.items():
            _put(message, key, value)
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
        if cropped := [key for key, wanted in self.images.items() if wanted.crop < 1.0]:
            raise ConfigError(
                f"The keys crop {', '.join(cropped)}, and what is cut off does not come. Give other --keys."
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


@dataclass(frozen=True)
class OwnKeys:
    """Observations as they are, under ``images``, ``state`` and ``prompt``; features come back too. Implements Keys."""

    def request(self, observation: Observation) -> dict[str, Any]:
        images = {name: _picture(name, image) for name, image in observation.images.items()}
        return {"images": images, "state": finite_proprio(observation), "prompt": observation.instruction}

    def observation(self, request: Mapping[str, Any], cameras: Sizes) -> Observation:
        given = request.get("images", {})
        if not isinstance(given, Mapping):
            raise ContractError(f"images is {described(given)}; valid is a map of pictures by camera.")
        wanted = {name: ImageKey(name, *cameras.get(name, (None, None))) for name in {*cameras, *given}}
        images = {name: key.read(_own(name), _get(request, _own(name))) for name, key in wanted.items()}
        return Observation(images, numbers("state", _get(request, "state")), _text(request, "prompt"))

    def check(self, cameras: Sizes) -> None:
        """A client's cameras have the policy's names."""

    def answer(self, chunk: ActionChunk) -> dict[str, Any]:
        return {"actions": chunk.actions, "features": chunk.features}

    def actions(self, answer: Mapping[str, Any]) -> np.ndarray:
        return chunk_of("actions", _get(answer, "actions"))


def hashed(keys: Keys, metadata: bytes = b"") -> str:
    """A version for policies whose servers say none: of what the keys give, whatever fields they may have one day."""
    written = json.dumps(_given(keys), default=repr, sort_keys=True)
    return hashlib.sha256(metadata + written.encode()).hexdigest()[:12]


def _given(value: Any) -> Any:
    """Plain values, without the fields that are as they are where nobody gives them."""
    if is_dataclass(value):
        held = [(each.name, getattr(value, each.name), _default(each)) for each in fields(value)]
        return {name: _given(entry) for name, entry, default in held if entry != default}
    if isinstance(value, Mapping):
        return [[key, _given(entry)] for key, entry in value.items()]
    return value


def _default(of: Field[Any]) -> Any:
    return of.default if of.default_factory is MISSING else of.default_factory()


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
        raise ContractError(f"{key} is {described(value)}; valid are finite numbers, float32 [N].")
    return array


def chunk_of(key: str, value: Any) -> np.ndarray:
    """Actions float32 ``[H, A]`` of an answer; one action is a chunk of length 1."""
    array = _float32(value)
    array = array[None] if array is not None and array.ndim == 1 else array
    if array is None or array.ndim != 2 or array.size == 0:
        raise ContractError(f"{key} of the server's answer is {described(value)}; valid are finite actions [H, A].")
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


def _picture(camera: str, image: Any) -> np.ndarray:
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ContractError(f"Camera {camera!r} gives {described(array)}; valid is uint8 [height, width, 3].")
    return array


def _text(request: Mapping[str, Any], key: str) -> str:
    value = _get(request, key)
    if not isinstance(value, str):
        raise ContractError(f"{key} is {described(value)}; valid is the instruction as text.")
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
            there = sorted(map(str, found)) if isinstance(found, Mapping) else described(found)
            raise ContractError(f"{key} is missing; there is {there}.")
        found = found[level]
    return found
