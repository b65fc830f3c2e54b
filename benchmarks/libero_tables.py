"""What `pld bench libero` has found, as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from results_table import cell

from pld_core.statistics import SuccessRate


def markdown(found: Mapping[str, Any]) -> Iterator[str]:
    """The lines of libero.md; found: what libero.json holds."""
    if found["specialists"]:
        yield "| task | seed | base | specialist | VLA* of the task | steps | minutes |\n|---|---|---|---|---|---|---|"
        for row in found["specialists"]:
            policies = " | ".join(cell(row[name]) for name in ("base", "specialist", "distilled"))
            yield f"| {row['task']} | {row['seed']} | {policies} | {row['env_steps']:,} | {row['minutes']:.1f} |"
        yield ""
    rows = found["suite"]
    if rows:
        policies = list(dict.fromkeys(row["policy"] for row in rows))
        yield f"| task | trained | {' | '.join(policies)} |\n|---|---|{'---|' * len(policies)}"
        for task in dict.fromkeys(row["task"] for row in rows):
            of_task = {row["policy"]: row for row in rows if row["task"] == task}
            seen = "yes" if next(iter(of_task.values()))["seen"] else "no"
            yield f"| {task} | {seen} | {' | '.join(cell(of_task.get(name)) for name in policies)} |"
        for seen, label in ((True, "all trained"), (False, "all others")):
            yield f"| {label} | | {' | '.join(_mean(rows, name, seen) for name in policies)} |"
        yield ""
    for task, curves in found["curves"].items():
        yield f"{task}: success at the end of {curves['budget']:,} steps, best, steps to 95 % (one number per seed)\n"
        yield "| method | at the end | best | steps to 95 % |\n|---|---|---|---|"
        for name, row in curves["methods"].items():
            yield f"| {name} | {row['final']} | {row['best']} | {row['steps_to_95']} |"
        yield ""


def _mean(rows: Sequence[Mapping[str, Any]], policy: str, seen: bool) -> str:
    """Pooled over tasks, with the interval of the pooled count; only where no task of the group is missing."""
    group = {row["task"] for row in rows if row["seen"] == seen}
    chosen = [row for row in rows if row["policy"] == policy and row["task"] in group]
    if not chosen or len(chosen) < len(group):
        return "-"
    return str(SuccessRate(sum(row["successes"] for row in chosen), sum(row["episodes"] for row in chosen)))
