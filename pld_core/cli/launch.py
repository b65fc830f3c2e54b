"""``pld launch``: start the ROS nodes of a station. The core knows no ROS: an entry point says who does."""

from __future__ import annotations

from collections.abc import Sequence

from pld_core import registry


def run(args: Sequence[str]) -> int:
    return registry.load("commands", "launch")(args)
