"""``pld eval``."""

from __future__ import annotations

from collections.abc import Sequence

from pld_core.cli.common import parse_config, run_stage, take_option

STAR_HELP = """
--star POLICY evaluates a policy that was made elsewhere on the same seeds, as VLA* of a run that has none of its own:
  pld eval --run runs/NAME --star openpi:runs/NAME/distill/openpi/policy.yaml@ws://gpu-server:8000"""


def run(args: Sequence[str]) -> int:
    star, rest = take_option(args, "--star")
    if star is None:
        if "-h" in args or "--help" in args:
            print(STAR_HELP.strip(), end="\n\n")
        return run_stage(args, "eval", "evaluate")
    config = parse_config(rest, "eval")
    from pld_core.api import Pipeline

    Pipeline.from_config(config).evaluate_star(star)
    return 0
