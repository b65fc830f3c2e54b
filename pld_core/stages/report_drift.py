"""The report's sections on what distillation changed: drift of the actions, success on other tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from pld_core.stages.report_sections import NAMES, section

if TYPE_CHECKING:
    from pld_core.stages.report import RunData

_UNITS = ("mm", "mrad")


def drift(data: RunData) -> str:
    """A row for each pair of policies, old → new: divergence both ways, and how far apart the executed actions are."""
    pairs: Sequence[Mapping[str, Any]] = data.drift.get("pairs") or ()
    if not pairs:
        return ""
    sampled = any(pair["kl"] for pair in pairs)
    groups = list(pairs[0]["difference"])
    heads = ["KL(new ‖ old), 95 % interval", "KL(old ‖ new)"] if sampled else []
    heads += [_group_head(name, pairs[0]["difference"][name]) for name in groups]
    rows = "".join(
        _row(
            f"{_name(pair['from'])} → {_name(pair['to'])}",
            [*([_kl(pair["kl"]), _kl(pair["kl_reverse"], interval=False)] if sampled else [])]
            + [_distance(pair["difference"][name]) for name in groups],
        )
        for pair in pairs
    )
    per_state = f"Means over {data.drift['states']} states of held-out episodes, driven by base and specialist alike: "
    apart = "how far apart the executed actions are, per tick"
    if sampled:
        lead = (
            f"{per_state}KL (nats) says how unlike the distributions of the next action are, 0 for equal ones and 0.5 "
            f"for a shift by one standard deviation; the other columns say {apart}."
        )
    else:
        lead = f"{per_state}{apart}. There is no KL, as the base gives one answer per observation, not a distribution."
    return section("Drift of the actions", _table(["", *heads], rows), lead)


def forgetting(data: RunData) -> str:
    """A row for each task that was not trained."""
    tasks: Mapping[str, Mapping[str, Any]] = data.forgetting.get("tasks") or {}
    names = list(dict.fromkeys(("base", "distilled", *(name for found in tasks.values() for name in found))))
    rows = "".join(_row(task, [_rate(found.get(name)) for name in names]) for task, found in tasks.items() if found)
    if not rows:
        return ""
    lead = (
        "Tasks that this run did not train, the same held-out seeds for all policies: VLA* has forgotten those where "
        "its 95 % interval lies below the base's."
    )
    return section("Other tasks", _table(["", *map(_name, names)], rows), lead)


def _table(heads: Sequence[str], rows: str) -> str:
    first, *others = (escape(head) for head in heads)
    head = f"<th>{first}</th>" + "".join(f'<th class="n">{other}</th>' for other in others)
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'


def _row(name: str, cells: Sequence[str]) -> str:
    numbers = "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells)
    return f'<tr><td style="white-space:nowrap">{escape(name)}</td>{numbers}</tr>'


def _group_head(name: str, found: Mapping[str, Any]) -> str:
    unit = next((unit for unit in _UNITS if unit in found), "")
    return f"{name}, {unit}" if unit else f"{name}, of [−1, 1]"


def _distance(found: Mapping[str, Any]) -> str:
    unit = next((unit for unit in _UNITS if unit in found), "mean")
    return f"{found[unit]:.2f}"


def _kl(found: Mapping[str, Any] | None, interval: bool = True) -> str:
    if not found:
        return "–"
    low, high = found["ci95"]
    if not interval:
        return _signed(found["mean"])
    return f"{_signed(found['mean'])} ({_signed(low)} to {_signed(high)})"


def _signed(value: float) -> str:
    """Two decimals, with a real minus: an estimate of 0 may lie a little below it."""
    return f"{value:.2f}".replace("-", "−")


def _rate(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "–"
    low, high = found["ci95"]
    return f"{found['successes']}/{found['episodes']} ({100 * low:.0f}–{100 * high:.0f} %)"


def _name(policy: str) -> str:
    return NAMES.get(policy, policy)
