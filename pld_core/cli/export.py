"""``pld export``: a run's episodes as a dataset for other tools."""

from __future__ import annotations

from collections.abc import Sequence

from pld_core.cli.common import parse_own

DESCRIPTION = """recorded episodes of a run, or of any folder of them, as LeRobot dataset v3.0, v2.1 (for openpi) or
RLDS; see docs/datasets.md. Voided episodes are left out. A kill leaves a dataset of the episodes that were finished.
--for openpi (or openvla_oft) writes what VLA* is to learn with that trainer's config and commands.
--repo_id NAME --push uploads it; nothing is uploaded without."""


def run(args: Sequence[str]) -> int:
    from pld_core.stages.export import ExportConfig, export

    print(export(parse_own(ExportConfig, "export", DESCRIPTION, args)))
    return 0
