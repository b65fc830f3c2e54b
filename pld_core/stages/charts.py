"""Small charts as SVG text: they take the page's colours and fonts, and need no script and no image file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 720  # of the drawing's own units; the page scales it
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 10, 40
_MOST_POINTS = 400  # more cannot be seen


@dataclass(frozen=True)
class Series:
    """One line; ``low`` and ``high`` draw a band around it. style: 1-5 picks a colour of the page."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    style: int = 1
    faint: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Reference:
    """A horizontal dashed line, with a band where its uncertainty is known."""

    name: str
    y: float
    low: float | None = None
    high: float | None = None
    style: int = 4


@dataclass(frozen=True)
class Bar:
    """One success rate with its interval; all in [0, 1]."""

    name: str
    rate: float
    low: float
    high: float
    note: str = ""
    style: int = 1


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    references: Sequence[Reference] = (),
    percent: bool = False,
    height: int = 320,
    width: int = WIDTH,
) -> str:
    """An SVG with axes, bands, lines and references. ``percent`` fixes the y axis to 0-100 %."""
    axes = _Axes.around(series, references, percent, width, height)
    parts = [axes.grid(x_label, percent)]
    for reference in references:
        if reference.low is not None and reference.high is not None:
            top, bottom = axes.y(reference.high), axes.y(reference.low)
            parts.append(
                f'<rect class="band s{reference.style}" x="{_LEFT}" y="{top:.1f}" '
                f'width="{axes.width - _LEFT - _RIGHT}" height="{max(0.0, bottom - top):.1f}"/>'
            )
        y = axes.y(reference.y)
        parts.append(
            f'<line class="line dashed s{reference.style}" x1="{_LEFT}" x2="{axes.width - _RIGHT}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    parts += [_draw(axes, one) for one in series]
    names = ", ".join([s.name for s in series] + [r.name for r in references])
    label = escape(f"{y_label} against {x_label}: {names}", quote=True)
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def legend(series: Sequence[Series], references: Sequence[Reference] = ()) -> str:
    """The key of a chart as HTML, so that it wraps on a small screen."""
    items = [(s.name, s.style, "faint" if s.faint else "") for s in series]
    items += [(r.name, r.style, "dashed") for r in references]
    entries = "".join(f'<li><i class="key s{style} {kind}"></i>{escape(name)}</li>' for name, style, kind in items)
    return f'<ul class="legend">{entries}</ul>'


def bar_chart(bars: Sequence[Bar], label: str) -> str:
    """Success rates as horizontal bars (HTML), each with its interval as a whisker and its numbers beside it."""
    rows = "".join(
        f'<div class="bar"><span class="name">{escape(bar.name)}</span>'
        f'<span class="track" role="img" aria-label="{escape(bar.name, quote=True)}: {100 * bar.rate:.0f} %">'
        f'<i class="fill s{bar.style}" style="width:{100 * bar.rate:.2f}%"></i>'
        f'<i class="whisker" style="left:{100 * bar.low:.2f}%;width:{100 * (bar.high - bar.low):.2f}%"></i></span>'
        f'<span class="value">{100 * bar.rate:.0f} %</span>'
        f'<span class="range">{100 * bar.low:.0f}–{100 * bar.high:.0f} %{" · " + escape(bar.note) if bar.note else ""}'
        "</span></div>"
        for bar in bars
    )
    return f'<div class="bars" role="group" aria-label="{escape(label, quote=True)}">{rows}</div>'


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, roughly ``about`` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def short(value: float) -> str:
    """``15000`` as ``15k``; at most three digits."""
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def thin(values: Sequence[float], keep: int = _MOST_POINTS) -> list[int]:
    """Indices of at most ``keep`` evenly spread points, first and last included."""
    n = len(values)
    if n <= keep:
        return list(range(n))
    return sorted({round(k * (n - 1) / (keep - 1)) for k in range(keep)})


@dataclass(frozen=True)
class _Axes:
    """Maps data to the drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    width: int
    height: int

    @staticmethod
    def around(
        series: Sequence[Series], references: Sequence[Reference], percent: bool, width: int, height: int
    ) -> _Axes:
        xs = [x for s in series for x in s.x] or [0.0, 1.0]
        x_low, x_high = min(0.0, *xs), max(xs)
        x_high = x_high if x_high > x_low else x_low + 1.0
        if percent:
            return _Axes(x_low, x_high, 0.0, 1.0, width, height)
        ys = [y for s in series for y in (*s.y, *(s.low or ()), *(s.high or ())) if math.isfinite(y)]
        ys += [r.y for r in references]
        low, high = (min(ys), max(ys)) if ys else (0.0, 1.0)
        if low >= 0 and low < 0.5 * high:
            low = 0.0
        margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        return _Axes(x_low, x_high, low - (margin if low != 0.0 else 0.0), high + margin, width, height)

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM)

    def grid(self, x_label: str, percent: bool) -> str:
        parts = []
        for tick in [0, 0.25, 0.5, 0.75, 1] if percent else nice_ticks(self.y_low, self.y_high, 4):
            y, text = self.y(tick), f"{100 * tick:.0f} %" if percent else short(tick)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{self.width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        floor = self.height - _BOTTOM
        for tick in nice_ticks(self.x_low, self.x_high, max(2, self.width // 120)):
            x = self.x(tick)
            anchor = "end" if x > self.width - _RIGHT - 12 else "middle"
            parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{floor + 18}" text-anchor="{anchor}">{short(tick)}</text>')
        middle = (_LEFT + self.width - _RIGHT) / 2
        parts.append(
            f'<text class="axis" x="{middle}" y="{self.height - 4}" text-anchor="middle">{escape(x_label)}</text>'
        )
        return "".join(parts)


def _draw(axes: _Axes, series: Series) -> str:
    chosen = [k for k in thin(series.x) if math.isfinite(series.y[k])]
    points = [(axes.x(series.x[k]), axes.y(series.y[k])) for k in chosen]
    if not points:
        return ""
    parts = []
    if series.low is not None and series.high is not None:
        upper = [f"{axes.x(series.x[k]):.1f},{axes.y(series.high[k]):.1f}" for k in chosen]
        lower = [f"{axes.x(series.x[k]):.1f},{axes.y(series.low[k]):.1f}" for k in reversed(chosen)]
        parts.append(f'<polygon class="band s{series.style}" points="{" ".join(upper + lower)}"/>')
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    faint = " faint" if series.faint else ""
    parts.append(f'<polyline class="line s{series.style}{faint}" points="{path}"/>')
    if series.dots or len(points) == 1:
        parts += [f'<circle class="dot s{series.style}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>' for x, y in points]
    return "".join(parts)
