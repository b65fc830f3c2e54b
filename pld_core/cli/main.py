"""The command ``pld``: finds the verb, runs it, and turns known errors into one clear line."""

from __future__ import annotations

import importlib
import keyword
import os
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence

from pld_core.errors import PLDError, UnknownNameError

EXIT_ERROR, EXIT_INTERRUPTED = 2, 130

# verb -> what `pld --help` says; each lives in the module that `module_of` names, with `run(args) -> exit status`
VERBS: Mapping[str, str] = {
    "train": "the whole loop: harvest, learn, probe, distill, eval, report",
    "harvest": "roll the base VLA out and keep its successes",
    "learn": "train the residual specialist on top of the frozen base",
    "probe": "collect episodes for distillation with base and specialist",
    "distill": "fine-tune the base VLA on them",
    "eval": "success rates of base, specialist and distilled VLA",
    "report": "write report.html of a run",
    "serve": "a policy for others, over openpi's websocket protocol",
    "export": "a run's episodes as a dataset for other tools: LeRobot v3.0 or v2.1, RLDS",
    "import": "a dataset that `pld export` wrote, back as recorded episodes",
    "launch": "start a station's ROS nodes and the learner, and keep them running",
    "operator": "start, verdict, pause, emergency stop and driving by hand, for a running graph",
    "reward-train": "train a success classifier from labelled episodes",
    "replay": "recorded episodes in the simulated twin, before another policy, or as replay buffer",
    "bench": "measure speed on this machine; the last line is JSON",
    "bench-arm": "an arm's driver against its simulator: tracking, lateness, missed ticks",
    "rehearse": "one episode of a task through all nodes and the real driver, against the arm's simulator",
    "doctor": "check this machine and say what to fix",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the script; returns the exit status."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in args or os.environ.get("PLD_DEBUG", "0") not in ("", "0")
    args = [a for a in args if a != "--debug"]
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] == "--version":
        from importlib.metadata import version

        print(f"pld {version('pld')}")
        return 0
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
    # JAX warns of any fork; ours (git, ffmpeg) execute another program at once, which is safe.
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
    verb, rest = args[0], args[1:]
    try:
        if verb not in VERBS:
            raise UnknownNameError("command", verb, VERBS, "See `pld --help`.")
        return importlib.import_module(f"pld_core.cli.{module_of(verb)}").run(rest) or 0
    except PLDError as error:
        if debug:
            traceback.print_exc()
        _print_error(str(error))
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `pld ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def module_of(verb: str) -> str:
    """``reward_train`` of ``reward-train``, ``import_`` of ``import``, which Python keeps for itself."""
    return verb.replace("-", "_") + "_" * keyword.iskeyword(verb)


def usage() -> str:
    """The text of ``pld --help``; cheap, because a shell user asks often."""
    width = max(map(len, VERBS))
    lines = "\n".join(f"  {verb:<{width}}  {text}" for verb, text in VERBS.items())
    return (
        "usage: pld <command> [flags]\n\n"
        "Probe, Learn, Distill: turns a frozen base VLA that often fails into one that rarely does.\n\n"
        f"commands:\n{lines}\n\n"
        "`pld <command> --help` lists the flags, `--debug` (or PLD_DEBUG=1) shows tracebacks.\n"
        "Start with `pld doctor`, then `pld train`."
    )


def _print_error(message: str) -> None:
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    red, reset = ("\033[31m", "\033[0m") if colour else ("", "")
    print(f"{red}error: {message}{reset}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
