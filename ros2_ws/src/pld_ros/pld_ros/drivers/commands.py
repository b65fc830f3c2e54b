"""What every driver asks of a command before anything else."""

from __future__ import annotations

import numpy as np

from pld_core.errors import ContractError, NonFiniteError

ACTION_SLACK = 1e-6


def checked_action(delta: np.ndarray, gripper: float) -> np.ndarray:
    """float32 [7] of a command; raises ContractError on a wrong size, NaN or infinity, or |a| > 1."""
    action = np.append(delta, gripper)
    if np.shape(delta) != (6,) or action.shape != (7,) or action.dtype.kind not in "fiu":
        raise ContractError(
            f"A command has a delta of shape {np.shape(delta)} and the gripper {gripper!r}; "
            "valid are an array of 6 floats and one number. Nothing was sent."
        )
    if not np.isfinite(action).all():
        raise NonFiniteError(f"A command holds NaN or infinity: {action.tolist()}. Nothing was sent.")
    if np.abs(action).max() > 1.0 + ACTION_SLACK:
        raise ContractError(f"A command lies outside [-1, 1]: {action.tolist()}. Clip it first; nothing was sent.")
    return np.clip(action, -1.0, 1.0).astype(np.float32)


def checked_seed(seed: int) -> int:
    """Raises ContractError on what is no seed."""
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0:
        raise ContractError(f"A reset has the seed {seed!r}; valid are integers from 0 on. Nothing was moved.")
    return int(seed)
