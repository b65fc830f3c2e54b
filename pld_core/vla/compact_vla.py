"""CompactVLA: the policy that trains on a CPU in minutes and drives every stage of this project's tests."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pld_core.errors import CheckpointError, ConfigError, ContractError, NonFiniteError
from pld_core.types import ActionChunk, Episode, Observation, ObservationSpec
from pld_core.vla import pretrain as pretraining
from pld_core.vla import sft as tuning
from pld_core.vla.checkpoint import read_checkpoint, restore, write_checkpoint
from pld_core.vla.frames import GroundingFrames
from pld_core.vla.instruction import tokenise
from pld_core.vla.layers import Params, parameter_count
from pld_core.vla.model import CompactVLAConfig, ModelShape, decode, encode, identity_stats, init_params
from pld_core.vla.training import TrainConfig

BLOCK = 2  # observations per compiled call, always: another size would change the order of sums, so the last bits


class CompactVLA:
    """Images of named cameras, an instruction and proprioception to a chunk of actions. Immutable.

    Implements ``BasePolicy`` and ``TrainableVLA``. Features are ``[grounding (5), keypoints (2 x 32 per
    camera)]``, float32 of order one; ``ground`` gives the grounding in centimetres.
    """

    def __init__(
        self, shape: ModelShape, params: Params, stats: Mapping[str, np.ndarray], fitted: frozenset[str] = frozenset()
    ) -> None:
        self.shape = shape
        self.params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
        self.stats = dict(stats)
        self.fitted = fitted  # which statistics come from data: "proprio", "action"
        self.version = _version(shape, self.params, self.stats)
        self.action_horizon = shape.config.horizon
        self.feature_dim = shape.feature_dim
        self._tokens: dict[str, np.ndarray] = {}
        self._device = jax.device_put((self.params, self.stats))

    @classmethod
    def create(
        cls, spec: ObservationSpec, action_dim: int = 7, config: CompactVLAConfig | None = None, seed: int = 0
    ) -> CompactVLA:
        """A policy with fresh weights for the cameras and proprioception of ``spec``."""
        shape = ModelShape.of(spec, action_dim, config or CompactVLAConfig())
        return cls(shape, init_params(shape, jax.random.key(seed)), identity_stats(shape))

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Height and width of each camera that it needs."""
        return {name: (height, width) for name, height, width in self.shape.cameras}

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return parameter_count(self.params)

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation."""
        actions, features, _ = self._run(observations)
        if not (np.isfinite(actions).all() and np.isfinite(features).all()):
            raise NonFiniteError(f"Policy {self.version} produced NaN or infinity; its weights are unusable.")
        return [
            ActionChunk(action, feature, self.version, max(observation.stamp_ns.values(), default=0))
            for action, feature, observation in zip(actions, features, observations, strict=True)
        ]

    def sample(self, observation: Observation, count: int, seed: int) -> list[ActionChunk]:
        """``count`` independent chunks from the head's distribution; see ``interfaces.SamplingPolicy``."""
        (answer,) = self.infer([observation])
        drawn = _draw(self.shape, *self._device, *self._inputs([observation]), jax.random.key(seed), count)
        return [dataclasses.replace(answer, actions=actions) for actions in np.asarray(drawn)]

    def ground(self, observations: Sequence[Observation]) -> np.ndarray:
        """Estimated tool-to-target error ``[B, 5]``: dx, dy, dz in cm; sin, cos of the yaw error."""
        return self._run(observations)[2]

    def sft(
        self,
        episodes: Sequence[Episode],
        *,
        mode: tuning.Mode = "head",
        rank: int = 32,
        grounding_labels: Sequence[np.ndarray] | None = None,
        grounding_weight: float = 0.0,
        gripper: int | None = None,
        every: int = 1,
        state_path: Path | None = None,
        progress: Any = None,
        **options: Any,
    ) -> CompactVLA:
        """Fine-tune on the executed actions of ``episodes``; returns a new policy.

        mode: ``head``, ``full`` or ``lora``. options: fields of ``TrainConfig`` (steps, batch_size,
        learning_rate, warmup, weight_decay, ema, seed, ...). gripper: that of the ``ActionSpec``; it
        says how an arm rests after an episode's end. every: ticks from one that is learnt to the next.
        state_path: where training state is saved and continued from. Normalisation statistics are taken from the
        first data seen and then kept, so that weights keep their meaning; ``head`` never touches those that the
        features depend on.
        """
        config = TrainConfig.of(options)
        data = tuning.make_dataset(episodes, self.shape, grounding_labels, gripper, every)
        stats, fitted = self.stats, self.fitted
        if "action" not in fitted:
            stats = tuning.fit_action_stats(stats, np.concatenate([e.action for e in episodes]))
        if "proprio" not in fitted and mode != "head":
            stats = tuning.fit_proprio_stats(stats, data.proprio)
            fitted = fitted | {"proprio"}
        params = tuning.fine_tune(
            self.params, stats, self.shape, data, config, mode=mode, rank=rank, grounding_weight=grounding_weight,
            fingerprint=f"{self.version} {len(data.chunks)}", state_path=state_path, progress=progress,
        )  # fmt: skip
        return CompactVLA(self.shape, params, stats, fitted | {"action"})

    def pretrain_grounding(
        self, frames: GroundingFrames, *, state_path: Path | None = None, progress: Any = None, **options: Any
    ) -> CompactVLA:
        """Train encoder and grounding head on labelled frames; returns a new policy.

        options: ``TrainConfig``. state_path: where training state is saved and continued from.
        """
        config = TrainConfig.of({"batch_size": 64, "steps": 6000, "learning_rate": 2e-3, **options})
        stats = self.stats if "proprio" in self.fitted else tuning.fit_proprio_stats(self.stats, frames.proprio)
        fingerprint = f"{self.version} {len(frames)}"
        params = pretraining.pretrain(self.params, stats, self.shape, frames, config, fingerprint, state_path, progress)
        return CompactVLA(self.shape, params, stats, self.fitted | {"proprio"})

    def save(self, path: Path) -> None:
        """One file, written atomically; StorageError if it cannot be written."""
        header = {"kind": "policy", "shape": dataclasses.asdict(self.shape), "fitted": sorted(self.fitted)}
        write_checkpoint(Path(path), header, {"params": self.params, "stats": self.stats})

    @classmethod
    def load(cls, path: Path) -> CompactVLA:
        """The policy that ``save`` wrote; CheckpointError for anything else."""
        header, state = read_checkpoint(Path(path))
        if header.get("kind") != "policy":
            raise CheckpointError(f"{path} holds {header.get('kind')!r} state, not a policy.")
        try:
            saved = dict(header["shape"])
            config = CompactVLAConfig(**saved.pop("config"))
            cameras = tuple((str(n), int(h), int(w)) for n, h, w in saved.pop("cameras"))
            shape = ModelShape(config=config, cameras=cameras, **saved)
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise CheckpointError(f"{path} was made by another version of CompactVLA: {error}") from error
        # Only structure and shapes are needed: computing initial weights takes seconds.
        params = jax.eval_shape(lambda key: init_params(shape, key), jax.random.key(0))
        tree = restore({"params": params, "stats": identity_stats(shape)}, state, Path(path))
        return cls(shape, tree["params"], tree["stats"], frozenset(header["fitted"]))

    def _run(self, observations: Sequence[Observation]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Actions ``[B, H, A]``, features ``[B, F]``, grounding ``[B, 5]`` for any number of observations."""
        for index, observation in enumerate(observations):
            self._check(observation, index)
        blocks = [self._run_block(observations[i : i + BLOCK]) for i in range(0, len(observations), BLOCK)]
        if not blocks:
            config, width = self.shape.config, self.shape.action_dim
            blocks = [(np.zeros((0, config.horizon, width)), np.zeros((0, self.feature_dim)), np.zeros((0, 5)))]
        columns = zip(*blocks, strict=True)
        actions, features, grounding = (np.concatenate(column, dtype=np.float32) for column in columns)
        return actions, features, grounding

    def _run_block(self, observations: Sequence[Observation]) -> tuple[np.ndarray, ...]:
        """Fill the block with copies of its last observation, run, cut."""
        count = len(observations)
        padded = [*observations, *[observations[-1]] * (BLOCK - count)]
        outputs = _forward(self.shape, *self._device, *self._inputs(padded))
        return tuple(np.asarray(output)[:count] for output in outputs)

    def _inputs(self, observations: Sequence[Observation]) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Images, tokens and proprioception as the network takes them."""
        images = {name: np.stack([o.images[name] for o in observations]) for name, _, _ in self.shape.cameras}
        tokens = np.stack([self._tokenised(o.instruction) for o in observations])
        return images, tokens, np.stack([o.proprio for o in observations]).astype(np.float32)

    def _tokenised(self, instruction: str) -> np.ndarray:
        if instruction not in self._tokens:
            if len(self._tokens) > 1000:
                self._tokens.clear()
            self._tokens[instruction] = tokenise(instruction, self.shape.config.text_buckets)
        return self._tokens[instruction]

    def _check(self, observation: Observation, index: int) -> None:
        for name, height, width in self.shape.cameras:
            image = observation.images.get(name)
            if image is None:
                raise ContractError(
                    f"Observation {index} has no camera {name!r}: it has {sorted(observation.images)}, the policy "
                    f"needs {[camera[0] for camera in self.shape.cameras]}."
                )
            if image.shape != (height, width, 3) or image.dtype != np.uint8:
                raise ContractError(
                    f"Camera {name!r} of observation {index} gives {image.dtype} {image.shape}; the policy needs uint8 "
                    f"({height}, {width}, 3)."
                )
        if np.shape(observation.proprio) != (self.shape.proprio_dim,):
            raise ContractError(
                f"Observation {index} has proprio of shape {np.shape(observation.proprio)}; the policy needs "
                f"({self.shape.proprio_dim},)."
            )
        if not np.isfinite(observation.proprio).all():
            raise NonFiniteError(f"Proprioception of observation {index} holds NaN or infinity: {observation.proprio}.")


@partial(jax.jit, static_argnames=("shape",))
def _forward(shape: ModelShape, params: Params, stats: Any, images: Any, tokens: jax.Array, proprio: jax.Array):
    """Compiled once per shape, shared by all policies of that shape."""
    encoding = encode(params, stats, shape, images, tokens, proprio)
    return decode(params, stats, shape, encoding.context), encoding.features, encoding.grounding


@partial(jax.jit, static_argnames=("shape", "count"))
def _draw(
    shape: ModelShape, params: Params, stats: Any, images: Any, tokens: jax.Array, proprio: jax.Array,
    key: jax.Array, count: int,
) -> jax.Array:  # fmt: skip
    """Chunks ``[count, H, A]`` for one observation, which is encoded once."""
    context = encode(params, stats, shape, images, tokens, proprio).context
    return decode(params, stats, shape, jnp.repeat(context, count, axis=0), key)


def _version(shape: ModelShape, params: Params, stats: Mapping[str, np.ndarray]) -> str:
    """Hash of configuration, weights and statistics: twelve hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(shape), sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path((params, dict(stats))):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:12]
