"""Success against environment steps of `learn` stages, one line per preset; a PNG and a table.

    for p in peg_insertion peg_insertion_{rlpd,wsrl,calql,residual_sac}; do for s in 0 1 2; do
        pld harvest --preset $p --seed $s --learn.steps 40000; pld learn --preset $p --seed $s --learn.steps 40000
    done; done
    python benchmarks/learning_curves.py runs/peg_insertion{,_rlpd,_wsrl,_calql,_residual_sac}-seed[012]

A run that reached its target keeps its last value; the curve of any other ends where the run ended. The table
is stored in benchmarks/results/learning_curves.json; ``--json`` prints nothing else.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pld_core.metrics import read_rows
from pld_core.runlog import read_config
from pld_core.storage import write_json

SOLVED = 0.95
STORED = Path(__file__).parent / "results" / "learning_curves.json"
Curve = tuple[np.ndarray, np.ndarray]  # environment steps and validation success, both [N]


def curve(run: Path) -> Curve:
    """The validation points of a run, in order."""
    rows = [row for row in read_rows(run / "metrics.jsonl") if row.get("stage") == "learn"]
    points = [(row["eval/env_steps"], row["eval/success_rate"]) for row in rows if "eval/success_rate" in row]
    return np.array([p[0] for p in points]), np.array([p[1] for p in points])


def steps_to(success: float, points: Curve) -> int | None:
    """Environment steps at the first evaluation that reached ``success``."""
    reached = np.flatnonzero(points[1] >= success)
    return int(points[0][reached[0]]) if len(reached) else None


def on_grid(points: Curve, grid: np.ndarray, target: float = 1.0) -> np.ndarray:
    """The newest evaluation at each step of a grid; NaN after a run that ended without its target."""
    newest = np.maximum(np.searchsorted(points[0], grid, side="right") - 1, 0)
    spacing = np.diff(points[0]).max() if len(points[0]) > 1 else 0
    ended = (grid > points[0][-1] + spacing) & (points[1][-1] < target)
    return np.where(ended, np.nan, points[1][newest])


def table(curves: Mapping[str, Sequence[Curve]], budget: int) -> dict[str, Any]:
    """Per preset, one entry per seed: success at the end of the budget (None: the run ended before), the best until
    then (None: nothing was validated) and steps to 95 %."""
    found = {}
    for name, runs in curves.items():
        within = [(steps[steps <= budget], success[steps <= budget]) for steps, success in runs]
        found[name] = {
            "final": [None if np.isnan(v := on_grid(c, np.array([budget]))[0]) else float(v) for c in runs],
            "best": [max(map(float, success), default=None) for _, success in within],
            "steps_to_95": [steps_to(SOLVED, c) for c in within],
        }
    return found


def draw(panels: Mapping[str, Mapping[str, Sequence[Curve]]], budgets: Mapping[str, int], path: Path) -> None:
    """One panel per title; curves and budget (environment steps) of each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    size = (1 + 6 * len(panels), 4)
    figure, row = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False, sharey=True)
    for axes, (title, curves) in zip(row[0], panels.items(), strict=True):
        grid = np.linspace(0, budgets[title], 101)
        for name, runs in curves.items():
            values = np.stack([on_grid(c, grid) for c in runs])
            (line,) = axes.plot(grid, values.mean(0), label=f"{name} ({len(runs)})")  # NaN ends the line
            axes.fill_between(grid, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set(title=title, xlabel="environment steps", ylim=(-0.03, 1.03), xlim=(0, budgets[title]))
        axes.grid(alpha=0.3)
    row[0][0].set(ylabel="validation success")
    lines = {line.get_label(): line for axes in row[0] for line in axes.get_lines()}
    note = "mean, lowest and highest of (n) seeds"
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", title=note, frameon=False, ncols=len(lines))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders whose learn stage is finished")
    parser.add_argument("--budget", type=int, default=40_000, help="environment steps that are compared")
    parser.add_argument("--png", type=Path, default=Path("docs/learning_curves.png"), help="where to draw")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args()
    curves: dict[str, list[Curve]] = defaultdict(list)
    for run in args.runs:
        if len((points := curve(run))[0]):
            curves[Path(read_config(run).preset).stem].append(points)
    result = table(curves, args.budget)
    write_json(STORED, result)
    draw({"": curves}, {"": args.budget}, args.png)
    if not args.json:
        for name, row in result.items():
            print(f"{name:14} success at {args.budget}: {row['final']}, steps to 95 %: {row['steps_to_95']}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
