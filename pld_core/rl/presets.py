"""PLD and its baselines as settings of the one learner."""

from __future__ import annotations

from dataclasses import dataclass

from pld_core.errors import UnknownNameError


@dataclass(frozen=True)
class Algorithm:
    """What distinguishes the methods; everything else is shared.

    residual: act with base + residual, else with the actor alone. calql_warmup: pretrain the critic
    (and actor) on the offline data. calql_online: keep the conservative loss online.
    offline_data: draw the configured fraction of each batch from the offline data. grow_offline:
    online successes join the offline half. base_starts: base-only warm-up episodes and base-driven
    first ticks.
    """

    name: str
    residual: bool = True
    calql_warmup: bool = False
    calql_online: bool = False
    offline_data: bool = True
    grow_offline: bool = False
    base_starts: bool = False


_ALGORITHMS = (
    # Xiao et al. 2025 (arXiv 2511.00091)
    Algorithm("pld", calql_warmup=True, grow_offline=True, base_starts=True),
    # Ball et al. 2023: no pretraining, offline data are half of each batch
    Algorithm("rlpd", residual=False),
    # Zhou et al. 2024: offline RL first, its data dropped, a warm-up fills the online buffer
    Algorithm("wsrl", residual=False, calql_warmup=True, offline_data=False),
    # Nakamoto et al. 2023: offline RL first, the same loss and data go on online
    Algorithm("calql", residual=False, calql_warmup=True, calql_online=True),
    # the residual without offline data, warm start or base-driven starts
    Algorithm("residual_sac", offline_data=False),
)


def algorithm(name: str) -> Algorithm:
    """The method called ``name``; UnknownNameError lists the others."""
    for candidate in _ALGORITHMS:
        if candidate.name == name:
            return candidate
    raise UnknownNameError("algorithm", name, [a.name for a in _ALGORITHMS])
