"""What VLA* learns from: how long the base drives before a probe (alpha), which ticks are imitated, other sources.

    python benchmarks/distillation_data.py runs/peg_insertion-seed0

Starts one run per variant beside the given one, with its harvest and specialist; only probe, distill and
eval differ. Resumable like any run. The last line is JSON: variant -> probe and distilled success; it is stored
in benchmarks/results/distillation_data.json, and the given run's report shows it from then on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from variants import share, variant

from pld_core.api import Pipeline
from pld_core.stages.report import write_report
from pld_core.storage import write_json

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8)
STORED = Path(__file__).parent / "results" / "distillation_data.json"
SHARED_STAGES = ("base", "harvest", "learn")


def variants() -> dict[str, dict[str, Any]]:
    """Name of a variant and the settings in which it differs."""
    swept = {
        f"alpha-{alpha}-{part}": {"probe.alpha": alpha, "distill.imitate": part}
        for part in ("specialist", "all")
        for alpha in ALPHAS
    }
    return swept | {f"source-{source}": {"distill.data": source} for source in ("oracle", "base")}


def measure(run: Path, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    config = variant(run, f"{run.name}-{name}", settings)
    folder = run.parent / config.run_name
    share(run, folder, SHARED_STAGES)
    Pipeline.from_config(config).train()
    probed = json.loads((folder / "stages" / "probe.json").read_text())
    outcome = json.loads((folder / "eval.json").read_text())
    return {"probe": {k: v for k, v in probed.items() if k != "stage"}, "distilled": outcome["distilled"]}


def report(run: Path, measured: dict[str, dict[str, Any]]) -> None:
    """Put the study into the run's report, in the form that ``stages/report.py`` documents."""
    rows = [
        {
            "name": name,
            "successes": found["distilled"]["successes"],
            "episodes": found["distilled"]["episodes"],
            "note": f"{found['probe']['length']:.0f} ticks per episode learnt from",
        }
        for name, found in measured.items()
    ]
    write_json(run / "ablations" / "distillation_data.json", {"title": "What VLA* learns from", "rows": rows})
    write_report(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run whose learn stage is finished")
    parser.add_argument("--only", nargs="*", help="names of variants; default: all")
    args = parser.parse_args()
    chosen = {name: settings for name, settings in variants().items() if not args.only or name in args.only}
    measured = {name: measure(args.run, name, settings) for name, settings in chosen.items()}
    write_json(STORED, measured)
    report(args.run, measured)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
