"""What a tick refuses: observations and chunks that are not what was promised."""

from __future__ import annotations

import numpy as np

from pld_core.errors import ContractError, NonFiniteError
from pld_core.interfaces import BasePolicy
from pld_core.types import ActionChunk, Observation, ObservationSpec


def check_observation(observation: Observation, spec: ObservationSpec | None) -> None:
    """Raise ContractError or NonFiniteError unless it fits ``spec`` (None: its values alone are judged)."""
    if spec is not None:
        _check_sizes(observation, spec)
    if not np.isfinite(observation.proprio).all():
        raise NonFiniteError(
            f"The proprioception holds NaN or infinity: {np.asarray(observation.proprio).tolist()}. "
            "Check the robot's state source."
        )


def check_chunk(chunk: ActionChunk, policy: BasePolicy, dim: int) -> None:
    """Raise ContractError or NonFiniteError unless it holds ``[H, dim]`` actions and the promised features."""
    given, name = np.shape(chunk.actions), f"The base policy (version {policy.version})"
    if len(given) != 2 or given[0] < 1 or given[1] != dim:
        raise ContractError(f"{name} answered a chunk of shape {given}; the environment takes [H, {dim}] with H >= 1.")
    if np.shape(chunk.features) != (policy.feature_dim,):
        raise ContractError(
            f"{name} answered features of shape {np.shape(chunk.features)}; its feature_dim promises "
            f"({policy.feature_dim},). Correct feature_dim or what infer() answers."
        )
    for part, values in (("actions", chunk.actions), ("features", chunk.features)):
        if not np.isfinite(values).all():
            raise NonFiniteError(f"{name} answered NaN or infinity in its {part}. Nothing was executed.")


def _check_sizes(observation: Observation, spec: ObservationSpec) -> None:
    if np.shape(observation.proprio) != (spec.proprio_dim,):
        raise ContractError(
            f"The proprioception has shape {np.shape(observation.proprio)}; observation_spec promises "
            f"({spec.proprio_dim},). Correct proprio_dim or what the environment delivers."
        )
    for name, shape in spec.cameras.items():
        if name not in observation.images:
            raise ContractError(
                f"Camera {name!r} is missing from the observation (it has {sorted(observation.images)}); "
                f"observation_spec promises {sorted(spec.cameras)}. Check that camera and its name."
            )
        frame = np.asarray(observation.images[name])
        if frame.shape != tuple(shape) or frame.dtype != np.uint8:
            raise ContractError(
                f"Camera {name!r} delivered {frame.dtype} {frame.shape}; observation_spec promises uint8 "
                f"{tuple(shape)}. Convert the frame or correct the specification."
            )
