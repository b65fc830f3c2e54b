"""``pld import DATASET --out STORE``: what `pld export` wrote, back as recorded episodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pld_core.cli.common import take_option
from pld_core.errors import ConfigError

HELP = """usage: pld import DATASET --out STORE

Write the episodes of a LeRobot dataset (v3.0 or v2.1) that `pld export` made into a new folder of recorded episodes.
Everything but the pictures is what was exported to the last bit; see docs/datasets.md."""


def run(args: Sequence[str]) -> int:
    if "-h" in args or "--help" in args:
        print(HELP)
        return 0
    out, rest = take_option(args, "--out")
    if len(rest) != 1 or rest[0].startswith("-") or out is None:
        raise ConfigError(f"pld import takes one dataset and --out, got {' '.join(args)!r}.\n{HELP}")
    from pld_core.stages.export import import_dataset

    print(import_dataset(Path(rest[0]), Path(out)))
    return 0
