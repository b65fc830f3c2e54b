"""``pld rehearse``: an episode against an arm's simulator. The core knows no arm: an entry point says who does."""

from __future__ import annotations

from collections.abc import Sequence

from pld_core import registry


def run(args: Sequence[str]) -> int:
    return registry.load("commands", "rehearse")(args)
