"""``report.html``: one file that shows what a run did, and that can be mailed.

Read from the run folder: ``eval.json``, ``drift.json``, ``forgetting.json``, ``metrics.jsonl``, ``config.yaml``,
``environment.json``, ``stages/*.json``, ``videos/{base,specialist,distilled}.mp4`` and, if there are any,
``ablations/*.json``, each either curves or success rates::

    {"title": "...", "x_label": "env steps", "percent": true,
     "series": [{"name": "PLD", "x": [...], "y": [...], "low": [...], "high": [...]}]}
    {"title": "...", "rows": [{"name": "alpha 0.6", "successes": 58, "episodes": 60, "note": "34 ticks"}]}

What is missing is left out or named, so that the report of an unfinished run is useful too.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from pld_core.errors import ConfigError
from pld_core.metrics import read_rows
from pld_core.stages import report_drift
from pld_core.stages import report_sections as sections
from pld_core.storage import write_atomic

POLICIES = {"base": ("Base VLA", 4), "specialist": ("Specialist (base + residual)", 1), "distilled": ("VLA*", 2)}


@dataclass(frozen=True)
class RunData:
    """What the sections draw from; every part may be empty."""

    folder: Path
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    drift: Mapping[str, Any] = field(default_factory=dict)
    forgetting: Mapping[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    ablations: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def results(self) -> dict[str, Mapping[str, Any]]:
        """Evaluation per policy, in the order of the loop."""
        return {name: self.evaluation[name] for name in POLICIES if name in self.evaluation}


def write_report(run_dir: Path) -> Path:
    """Write ``run_dir/report.html`` (atomically) and return its path."""
    folder = Path(run_dir)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a run folder. `ls runs` shows the runs; runs/latest is the newest.")
    data = read_run(folder)
    path = folder / "report.html"
    write_atomic(path, render(data))
    return path


def read_run(folder: Path) -> RunData:
    """Collect what is there; a damaged file counts as absent, because a report must not fail a finished run."""
    stages = {path.stem: _json(path) for path in (folder / "stages").glob("*.json")}
    config = folder / "config.yaml"
    return RunData(
        folder=folder.resolve(),
        evaluation=_json(folder / "eval.json"),
        drift=_json(folder / "drift.json"),
        forgetting=_json(folder / "forgetting.json"),
        rows=read_rows(folder / "metrics.jsonl"),
        stages=stages,
        environment=(_json(folder / "environment.json").get("starts") or [{}])[-1],
        config_text=config.read_text(encoding="utf-8") if config.exists() else "",
        ablations=[found for path in sorted((folder / "ablations").glob("*.json")) if (found := _json(path))],
    )


def render(data: RunData) -> str:
    """The whole page."""
    task = str(data.evaluation.get("task") or _setting(data.config_text, "task") or data.folder.name)
    parts = [
        _header(data, task),
        sections.success(data),
        sections.by_reward(data),
        sections.videos(data),
        report_drift.forgetting(data),
        report_drift.drift(data),
        sections.learning_curve(data),
        sections.ablations(data),
        sections.critic(data),
        sections.stage_table(data),
        sections.provenance(data),
    ]
    return page(f"{task} · PLD report", [part for part in parts if part])


def page(title: str, parts: Sequence[str]) -> str:
    """A whole HTML page in the look of all reports, with nothing outside of it."""
    style = (importlib.resources.files("pld_core.stages") / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(data: RunData, task: str) -> str:
    seed = data.evaluation.get("seed", _setting(data.config_text, "seed"))
    about = [f"run {data.folder.name}"]
    about += [f"seed {seed}"] if seed not in (None, "") else []
    about += [f"{data.evaluation['minutes']:.0f} minutes"] if data.evaluation.get("minutes") else []
    title = task.replace("_", " ").capitalize()
    cards = "".join(_card(name, result) for name, result in data.results.items())
    return (
        f'<header><p class="kind">PLD report · {escape(" · ".join(about))}</p><h1>{escape(title)}</h1>'
        f'<p class="verdict">{_verdict(data)}</p></header>' + (f'<div class="cards">{cards}</div>' if cards else "")
    )


def _verdict(data: RunData) -> str:
    results = data.results
    if "base" not in results:
        done = ", ".join(name for name in sections.STAGE_ORDER if name in data.stages) or "none"
        return f"This run has not been evaluated yet. Finished stages: {escape(done)}."
    last = "distilled" if "distilled" in results else "specialist" if "specialist" in results else "base"
    base, best = results["base"], results[last]
    text = f"The base VLA succeeds in <b>{_percent(base)}</b> of {base['episodes']} held-out episodes"
    if last == "base":
        return text + "."
    what = "the VLA distilled from probing and learning" if last == "distilled" else "with the learned residual it"
    return f"{text}; {what} succeeds in <b>{_percent(best)}</b> of {best['episodes']}."


def _card(name: str, result: Mapping[str, Any]) -> str:
    label, style = POLICIES[name]
    low, high = result["ci95"]
    length = result.get("mean_length")
    ticks = f"<br>{length:.0f} ticks per episode" if isinstance(length, (int, float)) else ""
    return (
        f'<div class="card s{style}"><div class="name">{escape(label)}</div>'
        f'<div class="big" style="color:var(--ink)">{_percent(result)}</div>'
        f'<div class="small">{result["successes"]} of {result["episodes"]} · '
        f"95 % interval {100 * low:.0f}–{100 * high:.0f} %{ticks}</div></div>"
    )


def _percent(result: Mapping[str, Any]) -> str:
    return f"{100 * result['rate']:.0f} %"


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _setting(config_text: str, key: str) -> str:
    """A top-level setting of config.yaml, without needing all of it to be valid today."""
    for line in config_text.splitlines():
        if line.startswith(f"{key}:"):
            return line.partition(":")[2].strip()
    return ""
