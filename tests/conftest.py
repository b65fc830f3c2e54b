"""Settings that hold for every test."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports MuJoCo or JAX. A test machine need not have a screen or a GPU.
if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("NO_COLOR", "1")
# What a process has compiled, others load: half of the tests' time is XLA's.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

signal.signal(signal.SIGINT, signal.default_int_handler)  # which jobs in the background start without
settings.register_profile("pld", deadline=None)  # a busy machine is no failure
settings.load_profile("pld")


@pytest.fixture(autouse=True)
def _own_working_folder(tmp_path, monkeypatch):
    """Relative paths such as ``runs/`` end up in the test's own folder, never in the checkout."""
    monkeypatch.chdir(tmp_path)
