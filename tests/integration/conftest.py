"""What several integration tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; do not write there."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_run.base(folder / "base.vla")
    others = {"evaluate.other_tasks": ("tiny_run:FarReach",), "evaluate.other_episodes": 6}
    tiny_run.pipeline("tiny", folder / "base.vla", runs_dir=str(folder / "runs"), **others).train()
    return folder / "runs" / "tiny"
