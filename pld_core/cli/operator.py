"""``pld operator``: keys and verdicts for a running graph. The core knows no ROS: an entry point does."""

from __future__ import annotations

from collections.abc import Sequence

from pld_core import registry


def run(args: Sequence[str]) -> int:
    return registry.load("commands", "operator")(args)
