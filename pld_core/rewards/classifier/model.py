"""SuccessClassifier: the trained network with its decision rule, as a reward model and as one file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from pld_core.checkpoint import load_checkpoint, save_checkpoint
from pld_core.errors import CheckpointError, ConfigError, ContractError, NonFiniteError
from pld_core.rewards.classifier.calibration import Calibration
from pld_core.rewards.classifier.drift import DriftMonitor
from pld_core.rewards.classifier.network import NetworkShape, init_network, judge
from pld_core.rewards.debounce import Debounce, Latch
from pld_core.rewards.predicate import Predicate
from pld_core.types import Observation, TimeStep
from pld_core.vla.checkpoint import restore
from pld_core.vla.layers import Params
from pld_core.vla.model import CompactVLAConfig

KIND = "success classifier"


@dataclass(frozen=True)
class SuccessEstimate:
    """probability: of success at this moment; success: debounced, and kept until ``reset``; drift: this picture
    is unlike the training data, so neither should be relied on."""

    probability: float
    success: bool
    drift: bool


@dataclass(frozen=True)
class Decision:
    """From a logit and a proprioception to a verdict."""

    calibration: Calibration = dataclasses.field(default_factory=Calibration)
    threshold: float = 0.5
    debounce: Debounce = dataclasses.field(default_factory=Debounce)
    predicate: str = ""
    proprio_names: tuple[str, ...] = ()

    def parsed(self) -> Predicate:
        return Predicate.parse(self.predicate, self.proprio_names)


class SuccessClassifier:
    """Judges success from images; 1.0 at success, else 0. Implements interfaces.RewardModel.

    Call ``score`` or ``estimate`` once per tick (or ``watch``, where no verdict is wanted), ``reset`` where an
    episode begins. Raises ContractError for an observation that it cannot judge.
    """

    sees_for_itself = True

    def __init__(
        self,
        shape: NetworkShape,
        params: Params,
        stats: Mapping[str, np.ndarray],
        decision: Decision,
        drift: DriftMonitor,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.shape, self.params, self.stats = shape, params, dict(stats)
        self.decision, self.drift, self.provenance = decision, drift, dict(provenance or {})
        self._predicate = decision.parsed()
        self._latch = Latch(decision.debounce)
        self.reset()

    def reset(self) -> None:
        self._latch.reset()
        self._memory: Any = np.zeros((self.shape.memories, 1, self.shape.memory_dim), np.float32)

    def clear_latch(self) -> None:
        """Forget the verdicts so far, but not what was seen."""
        self._latch.reset()

    def watch(self, observation: Observation) -> None:
        """See a tick at which no verdict is wanted; later ones build on it."""
        if self.shape.memory_dim:
            self._look(observation)

    def _look(self, observation: Observation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logits ``[1]``, features ``[1, F]`` and the proprioception ``[P]``."""
        proprio = self._checked(observation)
        images = {name: observation.images[name][None] for name, _, _ in self.shape.cameras}
        seen = proprio[None, : self.shape.proprio_dim]
        logits, features, self._memory = judge(self.shape, self.params, self.stats, images, seen, self._memory)
        return np.asarray(logits), np.asarray(features), proprio

    def score(self, step: TimeStep) -> tuple[float, bool]:
        success = self.estimate(step.observation).success
        return float(success), success

    def estimate(self, observation: Observation) -> SuccessEstimate:
        """The verdict on this tick's observation, which the next ones build on."""
        logits, features, proprio = self._look(observation)
        probability = float(self.decision.calibration.probability(logits)[0])
        if not np.isfinite(probability):
            raise NonFiniteError("The success classifier answers NaN; its weights are unusable.")
        positive = probability >= self.decision.threshold and self._predicate.holds(proprio)
        drift = bool(self.drift.drifted(features)[0])
        return SuccessEstimate(probability, self._latch.see(positive), drift)

    def _checked(self, observation: Observation) -> np.ndarray:
        """The proprioception, float32 ``[P]``, of an observation that fits."""
        for name, height, width in self.shape.cameras:
            image = observation.images.get(name)
            if image is None:
                raise ContractError(
                    f"The success classifier looks through {[c[0] for c in self.shape.cameras]}, and there is no "
                    f"camera {name!r}: the observation has {sorted(observation.images)}. Train one for these cameras "
                    "with `pld reward-train --cameras ...`."
                )
            if np.shape(image) != (height, width, 3) or image.dtype != np.uint8:
                raise ContractError(
                    f"Camera {name!r} gives {image.dtype} {np.shape(image)}; the success classifier was trained on "
                    f"uint8 ({height}, {width}, 3). Set the camera to that size, or train again."
                )
        proprio = np.asarray(observation.proprio, np.float32)
        if not (self.shape.proprio_dim or self._predicate.comparisons):
            return proprio
        expected = len(self.decision.proprio_names) or self.shape.proprio_dim
        if proprio.shape != (expected,):
            raise ContractError(
                f"The proprioception has shape {proprio.shape}; the success classifier was trained on ({expected},): "
                f"{', '.join(self.decision.proprio_names) or 'unnamed'}."
            )
        if not np.isfinite(proprio).all():
            raise NonFiniteError(f"The proprioception holds NaN or infinity: {proprio.tolist()}.")
        return proprio

    # -- one file --------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Everything that judging needs, and where it comes from, in one checkpoint."""
        arrays = {
            "params": serialization.to_state_dict(jax.device_get(self.params)),
            "stats": self.stats,
            "drift": {name: np.asarray(value) for name, value in dataclasses.asdict(self.drift).items()},
        }
        metadata = {
            "kind": KIND,
            "shape": dataclasses.asdict(self.shape),
            "decision": dataclasses.asdict(self.decision),
            "provenance": self.provenance,
        }
        save_checkpoint(path, arrays, metadata)

    @classmethod
    def load(cls, path: Path) -> SuccessClassifier:
        """What ``save`` wrote. Raises CheckpointError for anything else."""
        arrays, metadata = load_checkpoint(path)
        if metadata.get("kind") != KIND:
            raise CheckpointError(
                f"{path} is no success classifier (it is {metadata.get('kind', 'another checkpoint')!r}); give the "
                "success.ckpt that `pld reward-train` wrote."
            )
        try:
            shape, decision = _shape(metadata["shape"]), _decision(metadata["decision"])
            drift = arrays["drift"]
            monitor = DriftMonitor(
                drift["mean"], drift["scale"], drift["axes"], drift["spread"],
                float(drift["rest"]), float(drift["threshold"]),
            )  # fmt: skip
            params = restore(init_network(shape, 0)[0], arrays["params"], Path(path))
            return cls(shape, params, arrays["stats"], decision, monitor, metadata["provenance"])
        except (KeyError, TypeError, ConfigError) as error:
            raise CheckpointError(f"{path} was made by another version of the classifier: {error}") from error


def _shape(saved: Mapping[str, Any]) -> NetworkShape:
    return NetworkShape(
        cameras=tuple((str(n), int(h), int(w)) for n, h, w in saved["cameras"]),
        proprio_dim=int(saved["proprio_dim"]),
        hidden=tuple(saved["hidden"]),
        memory_dim=int(saved["memory_dim"]),
        memories=int(saved["memories"]),
        encoder=CompactVLAConfig(**saved["encoder"]),
    )


def _decision(saved: Mapping[str, Any]) -> Decision:
    return Decision(
        Calibration(**saved["calibration"]),
        float(saved["threshold"]),
        Debounce(**saved["debounce"]),
        str(saved["predicate"]),
        tuple(saved["proprio_names"]),
    )
