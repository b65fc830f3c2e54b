"""eval.json of finished runs as one Markdown table.

python benchmarks/results_table.py runs/peg_insertion-seed? runs/cube_pickup-seed?
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from pld_core.runlog import read_config
from pld_core.statistics import SuccessRate


def cell(result: dict[str, Any] | None) -> str:
    """Successes of episodes with the 95 % interval and the mean length of the successes in ticks."""
    if result is None:
        return "-"
    low, high = (round(100 * bound) for bound in result["ci95"])
    ticks = result["mean_success_length"]
    length = "" if ticks is None or math.isnan(ticks) else f", {round(ticks)} ticks"
    return f"{result['successes']}/{result['episodes']} ({low}-{high} %{length})"


def first(whole: dict[str, Any], episodes: int) -> dict[str, Any]:
    """An evaluation's first so many episodes, whose lengths nobody has kept."""
    outcomes = whole["outcomes"][:episodes]
    return {**SuccessRate(sum(outcomes), len(outcomes)).to_dict(), "outcomes": outcomes, "mean_success_length": None}


def row(run: Path) -> str:
    config, outcome = read_config(run), json.loads((run / "eval.json").read_text())
    steps = json.loads((run / "stages" / "learn.json").read_text())["env_steps"]
    policies = [cell(outcome.get(name)) for name in ("base", "specialist", "distilled")]
    columns = [run.name, str(config.seed), *policies, f"{steps:,}", f"{outcome['minutes']:.1f}"]
    return f"| {' | '.join(columns)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    args = parser.parse_args()
    print("| run | seed | base | specialist | VLA* | steps | minutes |\n|---|---|---|---|---|---|---|")
    for run in args.runs:
        if (run / "eval.json").exists() and not run.is_symlink():  # runs/latest is one of the others
            print(row(run))


if __name__ == "__main__":
    main()
