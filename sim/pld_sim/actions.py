"""What every environment asks of an action before it executes it."""

from __future__ import annotations

import numpy as np

from pld_core.errors import ContractError

ACTION_SLACK = 1e-6


def checked_action(action: np.ndarray, dim: int, task: str, running: bool) -> np.ndarray:
    """The action as float64 ``[dim]`` in [-1, 1]; raises ContractError on anything else, and outside of an episode."""
    if not running:
        raise ContractError(f"step on a {task} episode that is over or was never started; call reset(seed).")
    action = np.asarray(action)
    if action.shape != (dim,) or action.dtype.kind not in "fiu":
        raise ContractError(
            f"step was given an action of shape {action.shape} and dtype {action.dtype}; "
            f"valid is a float array of shape ({dim},)."
        )
    if not np.isfinite(action).all():
        raise ContractError(f"step was given an action with NaN or infinity: {action}.")
    if np.abs(action).max() > 1.0 + ACTION_SLACK:
        raise ContractError(f"step was given an action outside [-1, 1]: {action}. Clip it with numpy.clip.")
    return np.clip(action.astype(np.float64), -1.0, 1.0)
