"""One tree of errors. Every message says what was given, what is valid and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PLDError(Exception):
    """Base of every error that this project raises on purpose."""


class ConfigError(PLDError):
    """A setting is unknown, of the wrong type or out of range."""


class UnknownNameError(ConfigError):
    """A preset, task, robot, policy or key that does not exist."""

    def __init__(self, kind: str, given: str, valid: Iterable[str], hint: str = "") -> None:
        names = sorted(valid)
        close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
        suggestion = f" Did you mean {close[0]!r}?" if close else ""
        listing = ", ".join(names) if names else "(none installed)"
        super().__init__(f"Unknown {kind} {given!r}.{suggestion} Valid: {listing}.{hint and ' ' + hint}")
        self.given = given
        self.suggestion = close[0] if close else None


class ContractError(PLDError):
    """An environment, policy, reward or driver returned something outside its specification."""


class NonFiniteError(ContractError):
    """NaN or infinity from a policy, a sensor or a loss."""


class EpisodeLostError(ContractError):
    """The process of an environment ended or fell silent in the middle of an episode; a reset starts another."""


class PolicyUnavailableError(ContractError):
    """Nobody computes the base policy's answers now, whatever is asked."""


class CheckpointError(PLDError):
    """A checkpoint is missing, truncated, corrupt or made by other settings."""


class StorageError(PLDError):
    """Writing failed (full disk, permissions); what was recorded before is intact."""


class LinkError(PLDError):
    """The actor-learner link was given something malformed, too large or at a wrong address."""


class RobotError(PLDError):
    """Base of everything that can go wrong with a robot."""


class RobotUnavailableError(RobotError):
    """No arm answers, or its driver is not installed."""


class RobotFaultError(RobotError):
    """The arm reports a fault, or has fallen silent; it holds, and takes nothing until it has recovered."""


class StageError(PLDError):
    """A stage cannot go on, for instance because the base never succeeds."""
