"""The one place that every command passes before it reaches an environment or a robot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pld_core.errors import ContractError, NonFiniteError
from pld_core.types import ActionSpec


@dataclass(frozen=True)
class SafetyLimits:
    """Step size and workspace limits for normalised end-effector commands.

    workspace: ``[2, 3]`` lowest and highest end-effector position in metres, in the action's frame,
    or None where the environment is not an arm. A command that would leave the box is shortened so
    that it ends on the box's face; one that starts outside may only move inwards.
    """

    action_spec: ActionSpec
    workspace: np.ndarray | None = None

    def apply(self, action: np.ndarray, position: np.ndarray | None = None) -> np.ndarray:
        """The admissible command nearest to ``action``, float32 ``[A]`` in [-1, 1].

        position: measured end-effector position ``[3]`` in metres; required with a workspace.
        Raises ContractError on a wrong size and NonFiniteError on NaN or infinity.
        """
        if action.shape != (self.action_spec.dim,):
            raise ContractError(
                f"A command has shape {action.shape}; this robot takes ({self.action_spec.dim},). "
                "Check the policy's action size against the environment's action_spec."
            )
        if not np.isfinite(action).all():
            raise NonFiniteError(f"A command holds NaN or infinity: {action.tolist()}. Nothing was sent.")
        safe = np.clip(action, -1.0, 1.0).astype(np.float32)
        if self.workspace is not None and position is not None:
            safe[:3] = self._inside(safe[:3], position)
        return safe

    def _inside(self, translation: np.ndarray, position: np.ndarray) -> np.ndarray:
        low, high = (np.asarray(bound) - position for bound in self.workspace)  # type: ignore[union-attr]
        scale = self.action_spec.translation_m
        # Outside the box one bound has the wrong sign; zero then forbids moving further out.
        moved = translation * scale
        allowed = np.clip(moved, np.minimum(low, 0.0), np.maximum(high, 0.0))
        return np.where(allowed == moved, translation, allowed / scale)  # unchanged to the last bit where it may pass
