"""``pld bench``: run the repository's benchmarks one after the other; the last line is one JSON object.

A benchmark is a program ``benchmarks/<name>.py``; with ``--json`` it prints nothing but its own JSON
object on its last line. Each runs in a process of its own, so that none warms up the next.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pld_core import system
from pld_core.cli.common import take_flag, take_option
from pld_core.errors import PLDError, StageError, UnknownNameError
from pld_core.storage import write_json

# program -> the keys that it must deliver
PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "env_speed": ("env_steps_per_s",),
    "vla_speed": ("vla_infer_ms",),
    "control_tick": ("tick_ms_p50", "tick_ms_p99"),
    "learner_speed": (
        "critic_updates_per_s_features",
        "critic_updates_per_s_resnet10",
        "replay_bytes_features",
        "replay_bytes_resnet10",
        "first_update_s_cold",
        "first_update_s_cached",
    ),
}
LIMIT_S = 900
HELP = """usage: pld bench [--json] [--quick] [--only NAME[,NAME]]

Measure this machine with the programs in benchmarks/ and store the result in benchmarks/results/.
--json prints nothing but the JSON object. --quick only shows that all of them work: tiny sizes, nothing stored.
What a program measures beyond the asked keys is under "more". Works in a checkout of the repository only."""


def run(args: Sequence[str]) -> int:
    if "-h" in args or "--help" in args:
        print(HELP)
        return 0
    quiet, rest = take_flag(args, "--json")
    quick, rest = take_flag(rest, "--quick")
    only, rest = take_option(rest, "--only")
    if rest:
        raise UnknownNameError("argument", rest[0], ("--json", "--quick", "--only"), "See `pld bench --help`.")
    folder = benchmarks_folder()
    programs = select(only)
    measured: dict[str, Any] = {}
    more: dict[str, Any] = {}
    for name in programs:
        began = time.monotonic()
        if not quiet:
            print(f"{name} ...", flush=True)
        found = measure(folder / f"{name}.py", programs[name], ["--quick"] if quick else [])
        measured |= {key: found.pop(key) for key in programs[name]}
        more |= {name: found} if found else {}
        if not quiet:
            print(f"  {_readable(measured, programs[name])}   ({time.monotonic() - began:.0f} s)", flush=True)
    revision, dirty = system.git_revision()
    result = {**measured, "more": more, "git": revision, "dirty": dirty, "machine": system.describe()}
    if only is None and not quick:
        path = folder / "results" / result_name()
        write_json(path, result)
        if not quiet:
            print(f"stored in {path}")
    print(json.dumps(result))
    return 0


def benchmarks_folder() -> Path:
    """``benchmarks/`` of the checkout that this code runs from; a wheel does not carry it."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    if not folder.is_dir():
        raise StageError(
            f"pld bench needs the folder benchmarks/ of a checkout (looked for {folder}). Clone the repository."
        )
    return folder


def select(only: str | None) -> dict[str, tuple[str, ...]]:
    """The programs to run: all, or those named, separated by commas."""
    if only is None:
        return dict(PROGRAMS)
    for name in only.split(","):
        if name not in PROGRAMS:
            raise UnknownNameError("benchmark", name, PROGRAMS)
    return {name: PROGRAMS[name] for name in only.split(",")}


def measure(program: Path, keys: Sequence[str], flags: Sequence[str] = ()) -> dict[str, Any]:
    """Run one program and return what it measured; every one of ``keys`` must be there."""
    if not program.exists():
        raise StageError(f"The benchmark {program} is missing from this checkout.")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(program.parents[1]), _pythonpath()]))}
    try:
        done = subprocess.run(
            [sys.executable, str(program), "--json", *flags],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise PLDError(f"{program.name} did not finish within {LIMIT_S} s.") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        reason = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise PLDError(f"{program.name} failed (exit status {done.returncode}): {reason}")
    try:
        found = json.loads(lines[-1])
    except json.JSONDecodeError as error:
        raise PLDError(f"The last line of {program.name} is not JSON: {lines[-1][:200]!r}") from error
    missing = [key for key in keys if key not in found]
    if missing:
        raise PLDError(f"{program.name} did not measure {', '.join(missing)}; it gave {', '.join(found)}.")
    return found


def result_name() -> str:
    """Names the kind of machine, not the machine: results of different sizes do not overwrite each other."""
    return f"bench_{system.cores()}cores_{'gpu' if system.gpu_model() else 'cpu'}.json"


def _pythonpath() -> str:
    return os.environ.get("PYTHONPATH", "")


def _readable(measured: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {measured[key]:,.4g}" for key in keys)
