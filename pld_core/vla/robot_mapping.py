"""How a robot's observations and actions map to a checkpoint's.

It is ``pld.yaml`` in the checkpoint's folder (YAML, hence JSON too)::

    proprio_dim: 13
    state: [0, 1, 2, 7]          # which entries of the proprioception the checkpoint knows, in its order
    cameras:
      - {camera: front, height: 64, width: 64, slot: base_0_rgb}
      - {camera: wrist, height: 64, width: 64, slot: left_wrist_0_rgb}
    action: {scale: [0.01, 0.01, 0.01, 0.08, 0.08, 0.08, 1.0], gripper_open: 0.0, gripper_closed: 1.0}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pld_core.errors import ConfigError, ContractError, NonFiniteError, UnknownNameError
from pld_core.storage import finite, write_atomic
from pld_core.strict import build
from pld_core.types import Observation
from pld_core.yaml_file import read_yaml

MAPPING_FILE = "pld.yaml"
OPENVLA_PROMPT = "{image}In: What action should the robot take to {instruction}?\nOut:"


@dataclass(frozen=True)
class CameraMapping:
    """One camera: its name and picture size here, its slot there; turned: by 180 degrees first."""

    camera: str
    height: int
    width: int
    slot: str = ""
    turned: bool = False


@dataclass(frozen=True)
class ActionMapping:
    """The first ``dim`` entries of a checkpoint's actions.

    scale: what 1 of PLD's action is in the checkpoint's units, per entry: metres (``translation_m`` of the
    ``ActionSpec``) where it was trained on metres; empty: 1 everywhere. gripper: its entry (whose scale does not
    count), or None; gripper_open, gripper_closed: what the checkpoint says for +1 and -1.
    """

    dim: int = 7
    scale: tuple[float, ...] = ()
    gripper: int | None = 6
    gripper_open: float = 1.0
    gripper_closed: float = -1.0

    def __post_init__(self) -> None:
        if self.dim < 1 or (self.gripper is not None and not 0 <= self.gripper < self.dim):
            raise ConfigError(
                f"action.gripper is entry {self.gripper} of action.dim {self.dim}; give null without one."
            )
        if self.scale and (len(self.scale) != self.dim or not all(s > 0 and np.isfinite(s) for s in self.scale)):
            raise ConfigError(f"action.scale needs {self.dim} positive numbers, one per action; got {self.scale}.")
        if self.gripper is not None and self.gripper_open == self.gripper_closed:
            raise ConfigError(f"action.gripper_open and action.gripper_closed are both {self.gripper_open}.")

    def to_model(self, actions: np.ndarray) -> np.ndarray:
        """Actions ``[..., dim]`` of PLD in the checkpoint's units, float32."""
        offset, scale = self._affine()
        return (actions * scale + offset).astype(np.float32)

    def from_model(self, actions: np.ndarray) -> np.ndarray:
        """The inverse, clipped to [-1, 1]; entries behind ``dim`` are left out."""
        offset, scale = self._affine()
        return np.clip((actions[..., : self.dim] - offset) / scale, -1.0, 1.0).astype(np.float32)

    def _affine(self) -> tuple[np.ndarray, np.ndarray]:
        offset, scale = np.zeros(self.dim), np.array(self.scale or [1.0] * self.dim)
        if self.gripper is not None:
            offset[self.gripper] = (self.gripper_open + self.gripper_closed) / 2
            scale[self.gripper] = (self.gripper_open - self.gripper_closed) / 2
        return offset, scale


@dataclass(frozen=True)
class TokenMapping:
    """Of token VLMs: the prompt ({image} and {instruction} are filled in), bins per action, and how many tokens
    the vocabulary has without padding (the action tokens are the last ones; None: as the configuration says)."""

    prompt: str = OPENVLA_PROMPT
    bins: int = 256
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        try:
            filled = self.prompt.format(image="", instruction="!")
        except (LookupError, ValueError) as error:
            raise ConfigError(f"tokens.prompt {self.prompt!r} may hold {{image}} and {{instruction}} only.") from error
        if "!" not in filled or self.bins < 2:
            raise ConfigError(f"tokens.prompt needs {{instruction}} and tokens.bins >= 2; got {self}.")


@dataclass(frozen=True)
class RobotMapping:
    """Everything that a checkpoint does not know about the robot.

    state: entries of the proprioception that are the checkpoint's state; None: all. horizon: actions of a chunk;
    None: as many as pi0 predicts, 1 for a token VLM. batch: observations per call of the network; more are faster
    on a GPU.
    """

    proprio_dim: int
    cameras: tuple[CameraMapping, ...]
    state: tuple[int, ...] | None = None
    action: ActionMapping = field(default_factory=ActionMapping)
    horizon: int | None = None
    batch: int = 1
    tokens: TokenMapping = field(default_factory=TokenMapping)

    def __post_init__(self) -> None:
        if outside := [i for i in self.state or () if not 0 <= i < self.proprio_dim]:
            raise ConfigError(f"state names entries {outside} of a proprioception of {self.proprio_dim}.")
        if not self.cameras:
            raise ConfigError("cameras is empty; a VLA needs at least one.")
        if self.batch < 1 or (self.horizon is not None and self.horizon < 1):
            raise ConfigError(f"horizon and batch must be at least 1, got {self.horizon} and {self.batch}.")

    def check(self, observation: Observation, where: str) -> None:
        """ContractError if a camera is missing, or anything has another shape or type; ``where`` names it."""
        for camera in self.cameras:
            image, wanted = observation.images.get(camera.camera), (camera.height, camera.width, 3)
            if image is None:
                raise ContractError(
                    f"{where} has no camera {camera.camera!r}: it has {sorted(observation.images)}, the policy needs "
                    f"{[c.camera for c in self.cameras]} (cameras in {MAPPING_FILE})."
                )
            if image.dtype != np.uint8 or image.shape != wanted:
                raise ContractError(
                    f"Camera {camera.camera!r} of {where} gives {image.dtype} {image.shape}; the policy needs uint8 "
                    f"{wanted} (cameras in {MAPPING_FILE})."
                )
        if np.shape(observation.proprio) != (self.proprio_dim,):
            raise ContractError(
                f"{where} has proprio of shape {np.shape(observation.proprio)}; the policy needs ({self.proprio_dim},) "
                f"(proprio_dim in {MAPPING_FILE})."
            )
        if not np.isfinite(observation.proprio).all():
            raise NonFiniteError(f"Proprioception of {where} holds NaN or infinity: {observation.proprio}.")

    def state_of(self, observation: Observation) -> np.ndarray:
        """The checkpoint's state, float32 ``[D]``."""
        proprio = np.asarray(observation.proprio, np.float32)
        return proprio if self.state is None else proprio[list(self.state)]

    def pictures(self, observation: Observation) -> list[np.ndarray]:
        """The cameras' images uint8 ``[h, w, 3]`` in the mapping's order, turned where that is asked for."""
        images = [(observation.images[c.camera], c.turned) for c in self.cameras]
        return [image[::-1, ::-1] if turned else image for image, turned in images]

    def in_slots(self, slots: Sequence[str], checkpoint: str) -> RobotMapping:
        """The same with cameras in the order of the checkpoint's ``slots``, which is all that its network knows of
        them; a camera without slot takes the one of its place."""
        if len(self.cameras) > len(slots):
            raise ConfigError(f"{checkpoint} sees {len(slots)} cameras, {MAPPING_FILE} names {len(self.cameras)}.")
        named = [dataclasses.replace(c, slot=c.slot or slots[i]) for i, c in enumerate(self.cameras)]
        for camera in named:
            if camera.slot not in slots:
                raise UnknownNameError(f"image slot of {checkpoint} (cameras in {MAPPING_FILE})", camera.slot, slots)
        if len({c.slot for c in named}) < len(named):
            raise ConfigError(
                f"Two cameras in {MAPPING_FILE} share one of the slots {', '.join(slots)} of {checkpoint}."
            )
        ordered = sorted(named, key=lambda camera: slots.index(camera.slot))
        return dataclasses.replace(self, cameras=tuple(dataclasses.replace(c, slot="") for c in ordered))


def read_mapping(folder: Path, given: Path | None = None) -> RobotMapping:
    """Of the checkpoint in ``folder``, or the given file; ConfigError where there is none, or an unknown key in it."""
    path = given or folder / MAPPING_FILE
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist: PLD must be told which camera, proprioception and action is which. Write it "
            "(docs/policies.md shows one), or name another file with ?mapping=FILE."
        )
    return build(RobotMapping, read_yaml(path), source=str(path))


def write_mapping(mapping: RobotMapping, folder: Path) -> None:
    write_atomic(folder / MAPPING_FILE, yaml.safe_dump(plain(mapping), sort_keys=False))


def plain(settings: Any) -> MappingABC[str, Any]:
    """A dataclass in JSON's types."""
    return finite(dataclasses.asdict(settings))
