"""Base policies by the names that a parameter can carry."""

from __future__ import annotations

from pathlib import Path

from pld_core import bring
from pld_core.interfaces import BasePolicy
from pld_core.vla.compact_vla import CompactVLA

COMPACT = "compact"


def load_policy(name: str) -> BasePolicy:
    """``compact`` (the base that ships with PLD), ``compact:PATH`` (a checkpoint of CompactVLA), an
    installed name, or ``module:attribute``."""
    kind, _, path = name.partition(":")
    if kind != COMPACT:
        return bring.base_policy(name)
    if path:
        return CompactVLA.load(Path(path))
    from pld_core.stages.workspace import shipped_base

    return CompactVLA.load(shipped_base("flow"))
