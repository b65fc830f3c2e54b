"""``pld bench``: run the repository's benchmarks one after the other; the last line is one JSON object.

A benchmark is a program ``benchmarks/<name>.py``; with ``--json`` it prints nothing but its own JSON
object on its last line. Each runs in a process of its own, so that none warms up the next.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pld_core import registry, system
from pld_core.cli.common import take_flag, take_option
from pld_core.errors import ConfigError, PLDError, StageError, UnknownNameError
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
    "policy_server": ("requests_per_s_1_clients", "requests_per_s_16_clients", "through_remote_vla_ms_p50"),
}
ROS_KEYS = ("ticks", "missed", "latency_ms_p50", "latency_ms_p99", "frames_lost", "transitions_lost")
ROS_HELP = """usage: pld bench ros [--seconds N] [--domain D] [--run_dir DIR] [--json]
       pld bench ros --run DIR [--json]

Run the graph of `pld launch sim_train task:=peg_insertion` in real time for N seconds (60) from its first episode
on, or take a run that is over; the last line is one JSON object:
  ticks             control ticks that were executed
  missed            those that came more than 10 ms late
  latency_ms_p50    from the capture of the newest observation to the publication of the command, median ...
  latency_ms_p99    ... and 99th percentile, over all ticks
  frames_lost       frames that the simulated cameras owed during episodes and that the replay logger never got, or
                    that it had while the controller still decided on an older one
  transitions_lost  ticks that were executed and that the learner did not get over the link, by their sequence
Without --json the lines before it say more. --run_dir keeps the run's folder. Needs `make ros`."""
LIBERO_KEYS = (
    "steps_per_s_plain", "steps_per_s_training", "steps_per_s_every_tick", "steps_per_s_evaluation",
)  # fmt: skip
LIBERO_HELP = """usage: pld bench libero-speed [--task TASK] [--ticks N] [--json]

Environment steps per second of a LIBERO task (libero_object/0) with a policy in the loop, resets included, in episodes
of N ticks (280), on this machine, which should be idle; the last line is one JSON object:
  steps_per_s_plain       the package's own environment, both cameras at every tick
  steps_per_s_every_tick  ours, the same
  steps_per_s_evaluation  ours, pictures where the policy plans: every fourth tick, as in the LIBERO presets
  steps_per_s_training    the same with simplified pictures, as those presets practise
Needs the extra libero: pip install 'pld[libero]'."""
LIBERO_MISSING = "This needs LIBERO: pip install 'pld[libero]' (in a checkout: pip install -e '.[libero]')."
LIMIT_S = 900
HELP = """usage: pld bench [--json] [--quick] [--only NAME[,NAME]]
       pld bench ros [--seconds N | --run DIR] [--json]
       pld bench libero-speed [--task TASK] [--json]
       pld bench libero [--suite SUITE] [--tasks N ...] [--parts PART ...]

Measure this machine with the programs in benchmarks/ and store the result in benchmarks/results/.
--json prints nothing but the JSON object. --quick only shows that all of them work: tiny sizes, nothing stored.
What a program measures beyond the asked keys is under "more". Works in a checkout of the repository only."""


def run(args: Sequence[str]) -> int:
    if args and args[0] in APART:
        return APART[args[0]](args[1:])
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


def run_ros(args: Sequence[str]) -> int:
    """``pld bench ros``: takes minutes and needs ROS, so that it is none of PROGRAMS."""
    if "-h" in args or "--help" in args:
        print(ROS_HELP)
        return 0
    quiet, rest = take_flag(args, "--json")
    flags: list[str] = []
    for flag in ("--seconds", "--run", "--run_dir", "--domain"):
        value, rest = take_option(rest, flag)
        flags += [] if value is None else [flag, value]
    if rest:
        raise UnknownNameError("argument", rest[0], ("--seconds", "--run", "--json"), "See `pld bench ros --help`.")
    seconds = _seconds(flags)
    registry.load("commands", "replay")  # says how to install what is missing to read bags
    found = measure(benchmarks_folder() / "ros.py", ROS_KEYS, flags, LIMIT_S + seconds)
    for name, value in found.pop("more").items():
        if not quiet:
            print(f"{name}: {value}")
    print(json.dumps(found))
    return 0


def run_libero_speed(args: Sequence[str]) -> int:
    """``pld bench libero-speed``: takes minutes and needs an extra, so that it is none of PROGRAMS."""
    if "-h" in args or "--help" in args:
        print(LIBERO_HELP)
        return 0
    quiet, rest = take_flag(args, "--json")
    flags: list[str] = []
    for flag in ("--task", "--ticks"):
        value, rest = take_option(rest, flag)
        flags += [] if value is None else [flag, value]
    if rest:
        raise UnknownNameError("argument", rest[0], ("--task", "--ticks", "--json"), "See `pld bench libero-speed -h`.")
    _require_libero()
    found = measure(benchmarks_folder() / "libero_speed.py", LIBERO_KEYS, flags)
    if not quiet:
        for key in LIBERO_KEYS:
            print(f"{key}: {found[key]} ({found[key] / found[LIBERO_KEYS[0]]:.2f}x)")
    print(json.dumps(found))
    return 0


def run_libero(args: Sequence[str]) -> NoReturn:
    """``pld bench libero``: hours of runs that show themselves; the program's own flags and exit status."""
    if not {"-h", "--help"} & set(args):
        _require_libero()
    program = str(benchmarks_folder() / "libero_study.py")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, program, *args])  # a child would outlive this process if it is killed


def _require_libero() -> None:
    if importlib.util.find_spec("libero") is None:
        raise ConfigError(LIBERO_MISSING)


APART: Mapping[str, Callable[[Sequence[str]], int]] = {
    "ros": run_ros,
    "libero-speed": run_libero_speed,
    "libero": run_libero,
}


def _seconds(flags: Sequence[str]) -> float:
    text = flags[flags.index("--seconds") + 1] if "--seconds" in flags else "60"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"--seconds is {text!r}; give a number of seconds above 0.")
    return seconds


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


def measure(program: Path, keys: Sequence[str], flags: Sequence[str] = (), limit_s: float = LIMIT_S) -> dict[str, Any]:
    """Run one program and return what it measured; every one of ``keys`` must be there."""
    if not program.exists():
        raise StageError(f"The benchmark {program} is missing from this checkout.")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(program.parents[1]), _pythonpath()]))}
    try:
        done = subprocess.run(
            [sys.executable, str(program), "--json", *flags],
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise PLDError(f"{program.name} did not finish within {limit_s:.0f} s.") from error
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
