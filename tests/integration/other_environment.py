"""Environments for packages that pin other versions than ours: one folder each beside the test's own, kept."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path


def python_with(name: str, *requirements: str) -> Path:
    """The interpreter of an environment with just these packages; made when first asked for."""
    folder = Path(sys.prefix) / "other" / name
    folder.mkdir(parents=True, exist_ok=True)
    done, wanted = folder / "requirements", "\n".join(requirements)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        if not done.exists() or done.read_text() != wanted:
            _uv("venv", "--quiet", "--clear", "--python", sys.executable, str(folder / "env"))
            _uv("pip", "install", "--quiet", "--python", str(folder / "env/bin/python"), *requirements)
            done.write_text(wanted)
    return folder / "env/bin/python"


def _uv(*arguments: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("uv"), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
