"""``pld report [RUN_DIR]``: needs no pipeline, so that it also works on a copied run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pld_core.cli.common import take_option
from pld_core.errors import ConfigError

HELP = """usage: pld report [RUN_DIR] [--run RUN_DIR]

Write report.html into a run folder (default: runs/latest) from its metrics.jsonl, eval.json and videos."""


def run(args: Sequence[str]) -> int:
    if "-h" in args or "--help" in args:
        print(HELP)
        return 0
    folder, rest = take_option(args, "--run")
    if len(rest) > 1 or any(a.startswith("-") for a in rest) or (folder and rest):
        raise ConfigError(f"pld report takes one run folder, got {' '.join(args)!r}.\n{HELP}")
    from pld_core.stages.report import write_report

    print(write_report(Path(folder or (rest[0] if rest else "runs/latest"))))
    return 0
