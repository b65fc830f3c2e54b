"""Octo (octo-models/octo), a transformer with a diffusion head in JAX, as a base policy.

Its package pins a JAX of its own, so it runs where it is installed: `pld serve --policy octo:...` there, ``ws://`` here
(docs/policies.md). Checked against commit 241fb35 of octo-models/octo.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from pld_core.errors import CheckpointError, ConfigError, ContractError, UnknownNameError
from pld_core.strict import build_from_query
from pld_core.types import ActionChunk, Observation
from pld_core.vla.robot_mapping import MAPPING_FILE, RobotMapping, plain, read_mapping

IMAGE = "image_"  # image_primary, image_wrist: the slots of Octo's cameras
INSTALL = (
    "Octo is not on PyPI and pins JAX 0.4.20, so it has an environment of its own: docs/policies.md shows how to make "
    "one and to serve the policy from there. Then give --policy ws://host:port here."
)


@dataclass(frozen=True)
class OctoSource:
    """``PATH_OR_ID?mapping=FILE&unnorm_key=NAME&step=N&normalization=bounds``.

    An id is one of Hugging Face's, ``hf://rail-berkeley/octo-small-1.5``. unnorm_key: whose statistics, where there are
    several; normalization: what training did to the actions.
    """

    path: str
    mapping: Path | None = None
    unnorm_key: str = ""
    step: int | None = None
    normalization: Literal["normal", "bounds"] = "normal"

    @classmethod
    def parse(cls, argument: str) -> OctoSource:
        return build_from_query(cls, argument)


def octo(argument: str) -> OctoPolicy:
    """The policy ``octo:PATH_OR_ID?options``."""
    source = OctoSource.parse(argument)
    try:
        package = importlib.import_module("octo.model.octo_model")
    except ImportError as error:
        raise ConfigError(f"octo cannot be imported ({error}). {INSTALL}") from error
    folder = Path(source.path.removeprefix("hf://"))
    mapping = read_mapping(folder, source.mapping)
    try:
        path = source.path if source.path.startswith("hf://") else str(folder.resolve())
        model = package.OctoModel.load_pretrained(path, step=source.step)
    except Exception as error:  # orbax, msgpack, TensorFlow's files and the hub have errors of their own
        raise CheckpointError(f"{source.path} cannot be loaded as Octo: {type(error).__name__}: {error}") from error
    policy = OctoPolicy(model, mapping, source.unnorm_key, source.normalization == "bounds")
    images = {c.camera: np.zeros((c.height, c.width, 3), np.uint8) for c in mapping.cameras}
    policy.infer([Observation(images, np.zeros(mapping.proprio_dim, np.float32))])  # compiles, before anyone waits
    return policy


class OctoPolicy:
    """An ``OctoModel`` as interfaces.BasePolicy; no features, no ``sft``.

    Octo looks at a window of observations; a base policy is asked with one, which is the window's last. Those before it
    are masked as padding, as at the start of an episode. Noise is a function of what is seen.
    """

    feature_dim = 0

    def __init__(self, model: Any, mapping: RobotMapping, unnorm_key: str = "", bounds: bool = False) -> None:
        """bounds: training scaled p01 and p99 of the data to [-1, 1], instead of to mean 0 and deviation 1.

        Raises ConfigError where the mapping does not fit the model.
        """
        self.model = model
        self._example = model.example_batch["observation"]
        slots = [key.removeprefix(IMAGE) for key in sorted(self._example) if key.startswith(IMAGE)]
        self.slots = dict(zip((c.camera for c in mapping.cameras), _slots(mapping, slots), strict=True))
        self.mapping = mapping
        found = _statistics(model.dataset_statistics, unnorm_key)
        chosen = {name: found[name] for name in ("action", "proprio") if name in found}
        self.statistics = {name: _centred(one) if bounds else one for name, one in chosen.items()}
        predicted = model.config["model"]["heads"]["action"]["kwargs"]["action_horizon"]
        self.action_horizon: int = mapping.horizon or int(predicted)
        size = len(self.statistics["action"]["mean"])
        if self.action_horizon > predicted or mapping.action.dim > size:
            raise ConfigError(
                f"{MAPPING_FILE} takes {self.action_horizon} actions of {mapping.action.dim} entries; this Octo "
                f"predicts {predicted} of {size}."
            )
        self._tasks = lru_cache(maxsize=64)(lambda text: model.create_tasks(texts=[text]))

    @cached_property
    def version(self) -> str:
        """Hash of weights, mapping and statistics."""
        import jax

        digest = hashlib.sha256(json.dumps(plain(self.mapping), sort_keys=True).encode())
        for leaf in jax.tree_util.tree_leaves((self.model.params, self.statistics)):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:12]

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation; raises ContractError for one that does not fit the mapping."""
        for index, observation in enumerate(observations):
            self.mapping.check(observation, f"Observation {index}")
        return [self._chunk(observation) for observation in observations]

    def sample(self, observation: Observation, count: int, seed: int) -> list[ActionChunk]:
        """``count`` independent chunks from the head's distribution; see ``interfaces.SamplingPolicy``."""
        import jax

        self.mapping.check(observation, "The observation")
        return [self._chunk(observation, key) for key in jax.random.split(jax.random.PRNGKey(seed), count)]

    def _chunk(self, observation: Observation, key: Any = None) -> ActionChunk:
        """key: of the noise; None: a function of what is seen."""
        import jax

        inputs = self.inputs(observation)
        if key is None:
            key = jax.random.PRNGKey(_seed(inputs, observation.instruction))
        sampled = self.model.sample_actions(
            inputs,
            self._tasks(observation.instruction),
            unnormalization_statistics=self.statistics["action"],
            rng=key,
        )
        actions = np.asarray(sampled, np.float32)[0, : self.action_horizon]
        if not np.isfinite(actions).all():
            raise ContractError("Octo answered actions with NaN or infinity.")
        stamp = max(observation.stamp_ns.values(), default=0)
        return ActionChunk(self.mapping.action.from_model(actions), np.zeros(0, np.float32), self.version, stamp)

    def inputs(self, observation: Observation) -> dict[str, Any]:
        """``[1, W, ...]`` of each of the model's keys; the window's last is the observation, the others padding."""
        window = self._example["timestep_pad_mask"].shape[1]
        now = np.arange(window) == window - 1
        given: dict[str, np.ndarray] = {}
        pictures = self.mapping.pictures(observation)
        for camera, picture in zip(self.mapping.cameras, pictures, strict=True):
            key = IMAGE + self.slots[camera.camera]
            given[key] = _resized(picture, *self._example[key].shape[2:4])
        if "proprio" in self._example:
            given["proprio"] = self._proprio(observation)
        inputs: dict[str, Any] = {}
        for key, example in self._example.items():
            if key.startswith(IMAGE) or key == "proprio":
                value = given.get(key, np.zeros(example.shape[2:], example.dtype))
                inputs[key] = np.repeat(value[None, None], window, axis=1)
        inputs["timestep_pad_mask"] = now[None]
        inputs["pad_mask_dict"] = {
            key: np.full((1, window), key in given) for key in inputs if key != "timestep_pad_mask"
        }
        return inputs

    def _proprio(self, observation: Observation) -> np.ndarray:
        state, example = self.mapping.state_of(observation), self._example["proprio"]
        if state.shape != example.shape[2:]:
            raise ContractError(
                f"Octo's proprioception has {example.shape[2]} entries, {MAPPING_FILE} gives {len(state)} (state)."
            )
        stats = self.statistics.get("proprio")
        if stats is None:
            return state
        scaled = (state - stats["mean"]) / (stats["std"] + 1e-8)
        return np.where(stats.get("mask", True), scaled, state).astype(np.float32)


def _slots(mapping: RobotMapping, slots: Sequence[str]) -> list[str]:
    """The slot of each of the mapping's cameras: as it says, else by place."""
    if len(mapping.cameras) > len(slots):
        raise ConfigError(f"This Octo sees {', '.join(slots)}; {MAPPING_FILE} names {len(mapping.cameras)} cameras.")
    named = [camera.slot or slots[place] for place, camera in enumerate(mapping.cameras)]
    for slot in named:
        if slot not in slots:
            raise UnknownNameError(f"image slot of Octo (cameras in {MAPPING_FILE})", slot, slots)
    if len(set(named)) < len(named):
        raise ConfigError(f"Two cameras in {MAPPING_FILE} share one of Octo's slots {', '.join(slots)}.")
    return named


def _statistics(found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Of one dataset: those of a fine-tuned model, or those of ``key``."""
    if "action" in found:
        return found
    if not key and len(found) == 1:
        return next(iter(found.values()))
    if key not in found:
        raise UnknownNameError("statistics of Octo (?unnorm_key=NAME)", key, list(found))
    return found[key]


def _centred(stats: Mapping[str, Any]) -> Mapping[str, Any]:
    """Bounds as the mean and deviation that do the same: ``sample_actions`` is compiled so that it knows no others."""
    low, high = np.asarray(stats["p01"]), np.asarray(stats["p99"])
    return {**stats, "mean": (high + low) / 2, "std": (high - low) / 2}


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """As Octo's own wrapper: stretched, Lanczos."""
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.LANCZOS))


def _seed(inputs: Mapping[str, Any], instruction: str) -> int:
    digest = hashlib.sha256(instruction.encode())
    for key in sorted(inputs):
        if key.startswith(IMAGE) or key == "proprio":
            digest.update(inputs[key].tobytes())
    return int.from_bytes(digest.digest()[:4], "little")
