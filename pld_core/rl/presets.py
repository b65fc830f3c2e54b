"""PLD and the baselines it is compared with, as differences in the same loop."""

from __future__ import annotations

from dataclasses import dataclass

from pld_core.errors import UnknownNameError


@dataclass(frozen=True)
class Algorithm:
    """What one method does differently; every number stays in the run's settings.

    residual: the policy corrects the base's action, otherwise it acts alone. offline_data: part of
    every online batch comes from the offline buffer. base_starts: base-only warm-up episodes enter
    the online buffer and some episodes begin with base-driven ticks. calql_warmup: Cal-QL on the
    offline buffer before going online. calql_online: Cal-QL's loss online as well. grow_offline:
    the policy's own successes join the offline buffer.
    """

    name: str
    residual: bool
    offline_data: bool
    base_starts: bool
    calql_warmup: bool
    calql_online: bool = False
    grow_offline: bool = False


PLD = Algorithm("pld", residual=True, offline_data=True, base_starts=True, calql_warmup=True, grow_offline=True)
RLPD = Algorithm("rlpd", residual=False, offline_data=True, base_starts=False, calql_warmup=False)
WSRL = Algorithm("wsrl", residual=False, offline_data=False, base_starts=False, calql_warmup=True)
CALQL = Algorithm("calql", residual=False, offline_data=True, base_starts=False, calql_warmup=True, calql_online=True)
RESIDUAL_SAC = Algorithm("residual_sac", residual=True, offline_data=False, base_starts=False, calql_warmup=False)

_ALL = (PLD, RLPD, WSRL, CALQL, RESIDUAL_SAC)


def algorithm(name: str) -> Algorithm:
    """The method called ``name``."""
    for known in _ALL:
        if known.name == name:
            return known
    raise UnknownNameError("algorithm", name, algorithm_names())


def algorithm_names() -> tuple[str, ...]:
    return tuple(known.name for known in _ALL)
