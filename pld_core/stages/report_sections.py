"""The parts of the report; each takes the run's data and returns HTML, or nothing if it has nothing to say."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pld_core.console import duration
from pld_core.stages.charts import Bar, Reference, Series, bar_chart, legend, line_chart
from pld_core.statistics import wilson

if TYPE_CHECKING:
    from pld_core.stages.report import RunData

STAGE_ORDER = ("base", "harvest", "learn", "probe", "distill", "eval", "report")
EMBED_BYTES = 3_000_000  # larger videos are linked, so that the page stays light
_STYLES = {"base": 4, "specialist": 1, "distilled": 2}
NAMES = {"base": "Base VLA", "specialist": "Specialist", "distilled": "VLA*"}
_CRITIC = {"q_data": "Q, replayed actions", "q_policy": "Q, present policy", "mc_return": "Monte Carlo return"}
_SMALL = {
    "critic_loss": "Critic loss",
    "entropy": "Policy entropy (nats)",
    "temperature": "Temperature",
    "residual_size": "Mean size of the residual",
    "xi": "Residual scale xi",
    "calql_bound_rate": "Cal-QL: share of bounded values",
}


def success(data: RunData) -> str:
    bars: list[Bar] = []
    others: Mapping[str, Any] = data.evaluation.get("others") or {}
    for name, result in data.results.items():
        low, high = result["ci95"]
        note = f"{result['successes']}/{result['episodes']}"
        bars.append(Bar(NAMES[name], result["rate"], low, high, note, _STYLES[name]))
    for name, result in others.items():
        low, high = result["ci95"]
        bars.append(Bar(name, result["rate"], low, high, f"{result['successes']}/{result['episodes']}", 3))
    if not bars:
        return ""
    lead = "Held-out seeds, the same for all. Whiskers are Wilson 95 % intervals."
    results = [*((NAMES[name], result) for name, result in data.results.items()), *others.items()]
    if void := [f"{result['voided']} of {name}" for name, result in results if result.get("voided")]:
        lead += f" Episodes that a fault made void are left out: {', '.join(void)}."
    return section("Success", bar_chart(bars, "success rates"), lead)


def by_reward(data: RunData) -> str:
    """Where the reward saw for itself: what it counted, beside what the environment says of the same episodes."""
    found: dict[str, Any] = data.evaluation.get("by_reward") or {}
    if not found:
        return ""
    head = '<tr><th></th><th class="n">by the reward</th><th class="n">false</th><th class="n">missed</th></tr>'
    rows = "".join(
        f'<tr><td>{escape(str(NAMES.get(name, name)))}</td><td class="n">{one["successes"]}/{one["episodes"]}</td>'
        f'<td class="n">{one["false_successes"]}</td><td class="n">{one["missed_successes"]}</td></tr>'
        for name, one in found.items()
    )
    lead = (
        "The bars above are the environment's word. Here the same seeds ended at the reward's word, as on a robot: "
        "how many successes it counted, how many of those the environment denies, and how many it missed."
    )
    return section("Judged by the reward", f'<div class="scroll"><table>{head}{rows}</table></div>', lead)


def videos(data: RunData) -> str:
    figures = []
    for name, label in NAMES.items():
        path = data.folder / "videos" / f"{name}.mp4"
        if path.exists():
            figures.append(
                f'<figure><video src="{_source(path)}" controls autoplay muted loop playsinline '
                f'preload="metadata"></video><figcaption>{escape(label)}</figcaption></figure>'
            )
    if not figures:
        return ""
    return section("One seed, three policies", f'<div class="videos">{"".join(figures)}</div>')


def learning_curve(data: RunData) -> str:
    rows = [row for row in data.rows if row.get("stage") == "learn"]
    evaluated = [row for row in rows if _number(row, "eval/success_rate", "eval/success") is not None]
    series = []
    exploring = [row for row in rows if _number(row, "success_rate") is not None]
    if exploring:
        rates = _smooth([float(row["success_rate"]) for row in exploring])
        series.append(Series("training episodes (exploring, smoothed)", _steps(exploring), rates, style=5, faint=True))
    if evaluated:
        y = [float(_number(row, "eval/success_rate", "eval/success") or 0.0) for row in evaluated]
        x = [float(row.get("eval/env_steps", row.get("env_steps", 0))) for row in evaluated]
        low, high = ([_number(row, f"eval/ci_{side}") for row in evaluated] for side in ("low", "high"))
        band = None not in low and None not in high
        series.append(
            Series("specialist, validation", x, y, low if band else None, high if band else None, 1, dots=True)  # type: ignore[arg-type]
        )
    if not series:
        return ""
    references = _base_reference(data)
    chart = legend(series, references) + line_chart(series, "environment steps", "success", references, percent=True)
    return section(
        "Learning curve", chart, "Bands are 95 % intervals. Validation seeds differ from the test seeds above."
    )


def critic(data: RunData) -> str:
    rows = [row for row in data.rows if row.get("stage") == "learn"]
    values = [
        Series(label, _steps(having), [float(r[key]) for r in having], style=style)
        for style, (key, label) in enumerate(_CRITIC.items(), 1)
        if (having := [row for row in rows if _number(row, key) is not None])
    ]
    small = []
    for key, label in _SMALL.items():
        having = [row for row in rows if _number(row, key) is not None]
        if len(having) > 1:
            one = Series(label, _steps(having), [float(r[key]) for r in having])
            chart = line_chart([one], "environment steps", label, height=190, width=320)
            small.append(f"<div><h3>{escape(label)}</h3>{chart}</div>")
    if not values and not small:
        return ""
    lead = (
        "Q should approach the discounted return that episodes really reach; well above it, the critic overestimates."
    )
    body = legend(values) + line_chart(values, "environment steps", "value", height=270) if values else ""
    if small:
        body += f"<details{'' if values else ' open'}><summary>Losses, entropy and scales</summary>"
        body += f'<div class="small-charts" style="margin-top:18px">{"".join(small)}</div></details>'
    return section("Critic", body, lead if values else "")


def ablations(data: RunData) -> str:
    parts = []
    for number, found in enumerate(data.ablations):
        body = _ablation(found)
        if body:
            margin = ' style="margin-top:26px"' if number else ""
            parts.append(f"<div{margin}><h3>{escape(str(found.get('title', 'Ablation')))}</h3>{body}</div>")
    return section("Ablations", "".join(parts)) if parts else ""


def _ablation(found: Mapping[str, Any]) -> str:
    if found.get("series"):
        series = [
            Series(str(s["name"]), s["x"], s["y"], s.get("low"), s.get("high"), style=1 + k % 5)
            for k, s in enumerate(found["series"])
        ]
        label = str(found.get("x_label", "environment steps"))
        return legend(series) + line_chart(series, label, "success", percent=bool(found.get("percent", True)))
    bars = []
    for row in found.get("rows", ()):
        k, n = int(row["successes"]), int(row["episodes"])
        note = " · ".join(filter(None, (f"{k}/{n}", str(row.get("note", "")))))
        bars.append(Bar(str(row["name"]), k / n if n else 0.0, *wilson(k, n), note))
    return bar_chart(bars, str(found.get("title", ""))) if bars else ""


def stage_table(data: RunData) -> str:
    names = [name for name in STAGE_ORDER if name in data.stages]
    names += sorted(set(data.stages) - set(STAGE_ORDER))
    if not names:
        return ""
    seconds = {name: float(data.stages[name].get("seconds") or 0.0) for name in names}
    longest = max(seconds.values()) or 1.0
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{duration(seconds[name])}</td>'
        f'<td style="width:22%"><i class="share" style="width:{100 * seconds[name] / longest:.1f}%"></i></td>'
        f"<td>{_facts(data.stages[name])}</td></tr>"
        for name in names
    )
    total = duration(sum(seconds.values()))
    head = '<tr><th>stage</th><th class="n">time</th><th></th><th>result</th></tr>'
    lead = f"{total} in all (minutes:seconds), interruptions left out."
    return section("Stages", f'<div class="scroll"><table>{head}{rows}</table></div>', lead)


def provenance(data: RunData) -> str:
    start = data.environment
    git = str(start.get("git") or "not a checkout")
    facts = {
        "Run folder": data.folder.name,
        "Started": start.get("started"),
        "Source revision": git + (" (with local changes)" if start.get("dirty") else ""),
        "Machine": " · ".join(_machine(start)),
        "Python": start.get("python"),
        "Packages": ", ".join(f"{name} {version}" for name, version in (start.get("packages") or {}).items()),
        "Files": ", ".join(_links(data.folder)),
    }
    rows = "".join(
        f"<tr><th>{key}</th><td>{value if key == 'Files' else escape(str(value))}</td></tr>"
        for key, value in facts.items()
        if value
    )
    settings = f"<details><summary>All settings</summary><pre>{escape(data.config_text)}</pre></details>"
    return section("Provenance", f'<table class="facts">{rows}</table>' + (settings if data.config_text else ""))


def section(title: str, body: str, lead: str = "") -> str:
    """A card of the page; ``body`` is HTML, the others are text."""
    text = f'<p class="lead">{escape(lead)}</p>' if lead else '<p class="lead"></p>'
    return f"<section><h2>{escape(title)}</h2>{text}{body}</section>"


def _base_reference(data: RunData) -> list[Reference]:
    """The base alone: as evaluated, or before that as harvested."""
    base = data.results.get("base")
    if base:
        return [Reference("base VLA alone", float(base["rate"]), *base["ci95"])]
    harvest = data.stages.get("harvest", {})
    k, n = harvest.get("successes"), harvest.get("episodes")
    if isinstance(k, int) and isinstance(n, int) and 0 <= k <= n and n:
        return [Reference("base VLA alone (harvest)", k / n, *wilson(k, n))]
    return []


def _facts(stage: Mapping[str, Any]) -> str:
    units = {"bytes_per_transition": " bytes per transition"}
    shown = []
    for key, value in stage.items():
        if key in ("stage", "seconds") or value is None or isinstance(value, (dict, list)):
            continue
        number = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        number = f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1e4 else number
        number = f"{value:,.0f}" if isinstance(value, float) and abs(value) >= 1e4 else number
        shown.append(f"{number}{units[key]}" if key in units else f"{key.replace('_', ' ')} {number}")
    return escape(", ".join(shown))


def _machine(start: Mapping[str, Any]) -> list[str]:
    parts = [str(start[key]) for key in ("cpu", "gpu") if start.get(key)]
    parts += [f"{start['cores']} cores"] if start.get("cores") else []
    return parts + ([f"{start['memory_gib']} GiB memory"] if start.get("memory_gib") else [])


def _links(folder: Path) -> list[str]:
    names = ("eval.json", "drift.json", "forgetting.json", "metrics.jsonl", "config.yaml", "environment.json")
    return [f'<a href="{name}">{name}</a>' for name in names if (folder / name).exists()]


def _source(path: Path) -> str:
    if path.stat().st_size > EMBED_BYTES:
        return f"videos/{path.name}"
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def _number(row: Mapping[str, Any], *keys: str) -> float | None:
    for key in keys:
        value = row.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None


def _steps(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [float(row.get("env_steps") or 0) for row in rows]


def _smooth(values: Sequence[float], window: int = 7) -> list[float]:
    """Centred moving average that narrows towards the ends."""
    smoothed = []
    for k in range(len(values)):
        reach = min(window // 2, k, len(values) - 1 - k)
        part = values[k - reach : k + reach + 1]
        smoothed.append(sum(part) / len(part))
    return smoothed
