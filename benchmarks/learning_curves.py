"""Success against environment steps of finished `learn` stages, one line per algorithm; a PNG and a table.

    for p in peg_insertion peg_insertion_rlpd ...; do for s in 0 1 2; do
        pld harvest --preset $p --seed $s; pld learn --preset $p --seed $s; done; done
    python benchmarks/learning_curves.py runs/peg_insertion*-seed* --png docs/learning_curves.png

A run that stopped early at its target keeps its last value. ``--json`` prints the table as JSON only.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pld_core.metrics import MetricsFile
from pld_core.runlog import read_config

SOLVED = 0.95
Curve = tuple[np.ndarray, np.ndarray]  # environment steps and validation success, both [N]


def curve(run: Path) -> Curve:
    """The validation points of a run, in order."""
    rows = [row for row in MetricsFile(run / "metrics.jsonl").rows() if row.get("stage") == "learn"]
    points = [(row["eval/env_steps"], row["eval/success_rate"]) for row in rows if "eval/success_rate" in row]
    return np.array([p[0] for p in points]), np.array([p[1] for p in points])


def steps_to(success: float, points: Curve) -> int | None:
    """Environment steps at the first evaluation that reached ``success``."""
    reached = np.flatnonzero(points[1] >= success)
    return int(points[0][reached[0]]) if len(reached) else None


def on_grid(points: Curve, grid: np.ndarray) -> np.ndarray:
    """Success on a common grid of steps; after the last point its value holds."""
    return np.interp(grid, points[0], points[1])


def table(curves: Mapping[str, Sequence[Curve]], budget: int) -> dict[str, Any]:
    """Per algorithm: success at the end of the budget and steps to 95 %, one number per seed."""
    return {
        name: {
            "final": [round(float(on_grid(c, np.array([budget]))[0]), 3) for c in runs],
            "steps_to_95": [steps_to(SOLVED, c) for c in runs],
        }
        for name, runs in curves.items()
    }


def draw(curves: Mapping[str, Sequence[Curve]], budget: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    grid = np.linspace(0, budget, 101)
    for name, runs in curves.items():
        values = np.stack([on_grid(c, grid) for c in runs])
        (line,) = axes.plot(grid, values.mean(0), label=f"{name} ({len(runs)})")
        axes.fill_between(grid, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="environment steps", ylabel="validation success", ylim=(0, 1.02), xlim=(0, budget))
    axes.grid(alpha=0.3)
    axes.legend(title="mean, lowest and highest of (n) seeds", frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders whose learn stage is finished")
    parser.add_argument("--budget", type=int, default=40_000, help="environment steps that are compared")
    parser.add_argument("--png", type=Path, help="where to draw")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args()
    curves: dict[str, list[Curve]] = defaultdict(list)
    for run in args.runs:
        curves[read_config(run).learn.algorithm].append(curve(run))
    result = table(curves, args.budget)
    if args.png:
        draw(curves, args.budget, args.png)
    if not args.json:
        for name, row in result.items():
            print(f"{name:14} success at {args.budget}: {row['final']}, steps to 95 %: {row['steps_to_95']}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
