"""``pld train``."""

from __future__ import annotations

from collections.abc import Sequence

from pld_core.cli.common import run_stage


def run(args: Sequence[str]) -> int:
    return run_stage(args, "train", "train")
