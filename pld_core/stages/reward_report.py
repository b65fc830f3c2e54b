"""The report of a success classifier: what it does on held-out episodes, and where it errs."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pld_core.rewards.classifier.calibration import reliability
from pld_core.rewards.classifier.dataset import Frames
from pld_core.rewards.classifier.measures import Scored, roc
from pld_core.rewards.classifier.model import SuccessClassifier
from pld_core.rewards.pictures import png
from pld_core.stages.charts import Reference, Series, legend, line_chart
from pld_core.stages.report import page
from pld_core.stages.report_sections import section
from pld_core.storage import write_atomic

ROC_SHOWN = 0.03  # false positive rate up to which the curve is drawn: beyond, nobody works
EPISODES_SHOWN = 6
ERRORS_SHOWN = 8  # of each kind
_PICTURE = "width:48%;margin-right:2%;border-radius:6px;image-rendering:pixelated"


def write_reward_report(
    folder: Path, classifier: SuccessClassifier, frames: Frames, logits: np.ndarray,
    episodes: Sequence[Scored], metrics: Mapping[str, Any],
) -> Path:  # fmt: skip
    """Write ``folder/report.html`` (atomically) about held-out frames with their logits, and return its path."""
    held = metrics["held_out"]
    parts = [
        _header(metrics),
        _cards(held),
        _confusion(held, classifier),
        _roc(episodes, held, classifier),
        _calibration(classifier, logits, frames.success, held),
        _over_time(episodes, classifier),
        _errors(frames, episodes, classifier),
        _by_source(held),
        _provenance(metrics),
    ]
    path = folder / "report.html"
    write_atomic(path, page("success classifier · PLD report", parts))
    return path


# -- numbers -----------------------------------------------------------------------------------------


def _header(metrics: Mapping[str, Any]) -> str:
    about, held = metrics["provenance"], metrics["held_out"]["episodes"]
    recall, wrong = held["recall"], held["false_positive"]
    count = about["episodes"]
    return (
        f'<header><p class="kind">PLD report · success classifier · seed {about["settings"]["seed"]}</p>'
        f"<h1>{escape(about['instruction'].capitalize() or 'Success classifier')}</h1>"
        f'<p class="verdict">In {count["held_out"]} held-out episodes it sees '
        f"<b>{recall['count']} of {recall['of']}</b> successes, and reports one in "
        f"<b>{wrong['count']} of {wrong['of']}</b> failures. Trained on {count['training']} episodes; threshold and "
        f"calibration come from {count['validation']} others.</p></header>"
    )


def _cards(held: Mapping[str, Any]) -> str:
    shown = (
        ("Successes that it sees", held["episodes"]["recall"], 2, "episodes"),
        ("Failures that it takes for success", held["episodes"]["false_positive"], 4, "episodes"),
        ("Negative frames above the threshold", held["frames"]["false_positive"], 1, "frames"),
    )
    return '<div class="cards">' + "".join(_card(*one) for one in shown) + "</div>"


def _card(label: str, rate: Mapping[str, Any], style: int, unit: str) -> str:
    low, high = rate["ci95"]
    return (
        f'<div class="card s{style}"><div class="name">{escape(label)}</div>'
        f'<div class="big" style="color:var(--ink)">{100 * rate["rate"]:.1f} %</div>'
        f'<div class="small">{rate["count"]} of {rate["of"]} {unit} · 95 % interval {100 * low:.1f}–{100 * high:.1f} %'
        "</div></div>"
    )


def _confusion(held: Mapping[str, Any], classifier: SuccessClassifier) -> str:
    tables = "".join(
        f"<div><h3>{title}</h3>{_table_of(held[key])}</div>"
        for title, key in (("Episodes, after the debounce", "episodes"), ("Single frames", "frames"))
    )
    early, delay = held["episodes"]["early"], held["episodes"]["delay_ticks"]
    median = "–" if delay["median"] is None else f"{delay['median']:+.0f}"
    note = (
        f'<p class="lead" style="margin:16px 0 0">It fires {median} ticks after success (median; from '
        f"{delay['earliest']:+d} to {delay['latest']:+d}), in {early['count']} of {early['of']} successful episodes "
        f"before it. Left out: {held['episodes']['fleeting']} whose success was too short for the debounce.</p>"
    )
    lead = (
        f"Threshold {classifier.decision.threshold:.3f}, {classifier.decision.debounce} frames"
        + (f", and {classifier.decision.predicate}" if classifier.decision.predicate else "")
        + ". A failed episode in which it fires once is what a learner finds and repeats, so these count apart."
    )
    return section("Confusion", f'<div class="small-charts">{tables}</div>{note}', lead)


def _table_of(rates: Mapping[str, Any]) -> str:
    hit, wrong = rates["recall"], rates["false_positive"]
    rows = (
        ("success", hit["count"], hit["of"] - hit["count"]),
        ("no success", wrong["count"], wrong["of"] - wrong["count"]),
    )
    body = "".join(
        f'<tr><td>{name}</td><td class="n">{yes:,}</td><td class="n">{no:,}</td></tr>' for name, yes, no in rows
    )
    return (
        f'<table><tr><th>truth</th><th class="n">judged success</th><th class="n">judged none</th></tr>{body}</table>'
    )


def _by_source(held: Mapping[str, Any]) -> str:
    head = (
        '<tr><th>driven by</th><th class="n">successes seen</th><th class="n">false alarms, failed episodes</th>'
        '<th class="n">negative frames above</th><th class="n">early</th></tr>'
    )
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{_ratio(found["episodes"]["recall"])}</td>'
        f'<td class="n">{_ratio(found["episodes"]["false_positive"])}</td>'
        f'<td class="n">{_ratio(found["frames"]["false_positive"])}</td>'
        f'<td class="n">{_ratio(found["episodes"]["early"])}</td></tr>'
        for name, found in held["by_source"].items()
    )
    return section("By source of the episodes", f'<div class="scroll"><table>{head}{rows}</table></div>')


def _ratio(rate: Mapping[str, Any]) -> str:
    return f"{rate['count']:,}/{rate['of']:,}" if rate["of"] else "–"


# -- curves ------------------------------------------------------------------------------------------


def _roc(episodes: Sequence[Scored], held: Mapping[str, Any], classifier: SuccessClassifier) -> str:
    false, true, area = roc(episodes)
    chosen = held["frames"]
    inside = false <= ROC_SHOWN
    x, y = 100 * false[inside], true[inside]
    if not inside.all():  # up to the chart's edge
        x, y = np.append(x, 100 * ROC_SHOWN), np.append(y, np.interp(ROC_SHOWN, false, true))
    point = ([100 * chosen["false_positive"]["rate"]], [chosen["recall"]["rate"]])
    series = [
        Series("all thresholds", x.tolist(), y.tolist(), style=1),
        Series(f"chosen threshold, {classifier.decision.threshold:.3f}", *point, style=4, dots=True),
    ]
    chart = legend(series) + line_chart(
        series, "false positives, % of negative frames", "recall of frames", percent=True
    )
    return section(
        "ROC",
        chart,
        f"Single frames, up to {100 * ROC_SHOWN:.0f} % false positives. Area under the whole curve: {area:.4f}.",
    )


def _calibration(classifier: SuccessClassifier, logits: np.ndarray, truth: np.ndarray, held: Mapping[str, Any]) -> str:
    calibration = classifier.decision.calibration
    raw = 1.0 / (1.0 + np.exp(-np.clip(logits, -30, 30)))
    curves = []
    for name, probability, style in (("before", raw, 5), ("after", calibration.probability(logits), 1)):
        bins = reliability(probability, truth)
        curves.append(
            Series(name, [b[1] for b in bins], [b[2] for b in bins], style=style, dots=True, faint=style == 5)
        )
    curves.append(Series("perfect", [0.0, 1.0], [0.0, 1.0], style=2, faint=True))
    error = held["calibration_error"]
    chart = legend(curves) + line_chart(
        curves, "probability given", "share that are successes", percent=True, height=280
    )
    lead = (
        f"Expected calibration error {100 * error['before']:.2f} % before and {100 * error['after']:.2f} % after: "
        f"temperature {calibration.temperature:.2f} and offset {calibration.offset:+.2f}, fitted on the validation "
        "episodes. Bins in the middle hold few frames."
    )
    return section("Calibration", chart, lead)


def _over_time(episodes: Sequence[Scored], classifier: SuccessClassifier) -> str:
    threshold = classifier.decision.threshold
    charts = []
    for episode in _telling(episodes):
        ticks = list(range(len(episode.probability)))
        series = [
            Series("truth", ticks, episode.success.astype(float).tolist(), style=2, faint=True),
            Series("probability", ticks, episode.probability.tolist(), style=1),
        ]
        chart = line_chart(series, "tick", "probability", [Reference("threshold", threshold)], True, 190, 320)
        fired = episode.fires(threshold, classifier.decision.debounce)
        said = "does not fire" if fired is None else f"fires at tick {fired}"
        done = f"success at tick {int(np.argmax(episode.success))}" if episode.succeeds else "no success"
        charts.append(f"<div><h3>{escape(episode.source)}: {done}, {said}</h3>{chart}</div>")
    names = [Series("probability", [], [], style=1), Series("truth", [], [], style=2, faint=True)]
    body = legend(names, [Reference("threshold", threshold)]) + f'<div class="small-charts">{"".join(charts)}</div>'
    return section("Score over time", body, "Held-out episodes: successes, then the failures with the highest scores.")


def _telling(episodes: Sequence[Scored]) -> list[Scored]:
    """Successes of different sources, and the failures that come nearest to success."""
    done = [e for e in episodes if e.succeeds]
    first = list({e.source: e for e in reversed(done)}.values())[: EPISODES_SHOWN // 2]
    failed = sorted((e for e in episodes if not e.succeeds), key=lambda e: -e.probability.max())
    return first + failed[: EPISODES_SHOWN - len(first)]


# -- pictures ----------------------------------------------------------------------------------------


def _errors(frames: Frames, episodes: Sequence[Scored], classifier: SuccessClassifier) -> str:
    threshold = classifier.decision.threshold
    probability = np.concatenate([np.where(e.allowed, e.probability, 0.0) for e in episodes])
    kinds = (
        ("No success, judged success", np.flatnonzero(~frames.success & (probability >= threshold)), -probability),
        ("Success, judged none", np.flatnonzero(frames.success & (probability < threshold)), probability),
    )
    parts = []
    for title, rows, worst in kinds:
        order = rows[np.argsort(worst[rows], kind="stable")]
        shown = _spread(order, frames.episode)[:ERRORS_SHOWN]
        figures = "".join(_figure(frames, episodes, int(row), float(probability[row])) for row in shown)
        body = f'<div class="small-charts">{figures}</div>' if figures else "<p>None.</p>"
        parts.append(f'<h3 style="margin-top:20px">{title} ({len(rows):,} frames)</h3>{body}')
    return section(
        "Worst errors", "".join(parts), "The worst frame of an episode, worst episodes first; what the classifier saw."
    )


def _spread(rows: np.ndarray, episode: np.ndarray) -> list[int]:
    """The first row of each episode, in the given order."""
    first: dict[int, int] = {}
    for row in rows:
        first.setdefault(int(episode[row]), int(row))
    return list(first.values())


def _figure(frames: Frames, episodes: Sequence[Scored], row: int, probability: float) -> str:
    number = int(frames.episode[row])
    start, truth = frames.rows(number).start, episodes[number].success
    tick = row - start
    images = "".join(
        f'<img alt="camera {escape(name)}" style="{_PICTURE}" src="{_source(frames.images[name][row])}">'
        for name in sorted(frames.images)
    )
    when = f"success from tick {int(np.argmax(truth))}" if truth.any() else "never successful"
    caption = f"{episodes[number].source}, tick {tick}, {when}; probability {probability:.3f}"
    return f"<figure>{images}<figcaption>{escape(caption)}</figcaption></figure>"


def _source(image: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


# -- provenance --------------------------------------------------------------------------------------


def _provenance(metrics: Mapping[str, Any]) -> str:
    about = metrics["provenance"]
    machine, count = about["machine"], about["frames"]
    facts = {
        "Data": ", ".join(about["folders"]),
        "Frames": f"{count['training']:,} training, {count['validation']:,} validation, {count['held_out']:,} held out",
        "Cameras": ", ".join(f"{name} {width} x {height}" for name, height, width in metrics["cameras"]),
        "Drift alarms": f"{100 * metrics['held_out']['drift_alarms']:.2f} % of the held-out frames",
        "Source revision": (about["git"] or "not a checkout") + (" (with local changes)" if about["dirty"] else ""),
        "Machine": f"{machine['cpu']} · {machine['cores']} cores · {machine['memory_gib']} GiB memory",
        "Files": '<a href="metrics.json">metrics.json</a>, ' + escape(metrics["checkpoint"]),
    }
    rows = "".join(
        f"<tr><th>{key}</th><td>{value if key == 'Files' else escape(str(value))}</td></tr>"
        for key, value in facts.items()
    )
    settings = "\n".join(f"{key}: {value}" for key, value in about["settings"].items())
    details = f"<details><summary>All settings</summary><pre>{escape(settings)}</pre></details>"
    return section("Provenance", f'<table class="facts">{rows}</table>{details}')
