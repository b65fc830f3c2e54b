"""Findings of ``pld doctor``, and how they are shown."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "problem"]
_MARKS = {"ok": ("✓", "32"), "warning": ("!", "33"), "problem": ("✗", "31")}


@dataclass(frozen=True)
class Check:
    """One finding; ``fix`` says what to do when it is not ok."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def healthy(checks: Iterable[Check]) -> bool:
    """Whether none of them is a problem."""
    return all(check.status != "problem" for check in checks)


def as_json(checks: Sequence[Check]) -> str:
    """One JSON object on one line."""
    return json.dumps({"ok": healthy(checks), "checks": [dataclasses.asdict(check) for check in checks]})


def show(check: Check, width: int) -> None:
    """Print one finding; width: of the column of names, in characters."""
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    mark, code = _MARKS[check.status]
    mark = f"\033[{code}m{mark}\033[0m" if colour else mark
    indent, columns = width + 4, shutil.get_terminal_size((100, 24)).columns
    print(f"{mark} {check.name:<{width + 2}}{_wrapped(check.detail, indent, columns)}", flush=True)
    if check.fix:
        print(f"{'':{indent}}→ {_wrapped(check.fix, indent + 2, columns)}", flush=True)


def show_verdict(checks: Sequence[Check], again: str, ready: str) -> None:
    """Print the last line; again: the command that checks anew; ready: what can be done now."""
    warnings = sum(check.status == "warning" for check in checks)
    print()
    if not healthy(checks):
        print(f"Fix what is marked with ✗, then run `{again}` again.")
    else:
        print(f"Ready{f', with {warnings} warning(s)' if warnings else ''}: {ready}")


def _wrapped(text: str, indent: int, columns: int) -> str:
    kept = re.sub(r"(?<=\d) (?=[A-Za-z])", "\N{NO-BREAK SPACE}", text)  # a number and its unit
    lines = textwrap.wrap(kept, max(30, columns - indent), break_long_words=False, break_on_hyphens=False)
    return f"\n{'':{indent}}".join(lines or [""]).replace("\N{NO-BREAK SPACE}", " ")
