"""Charts of the page as inline SVG: no script, no style attribute, colours from the page's style sheet.

A chart names the classes ``arm`` and ``baseline``; the page decides what they look like in light and dark.
Coordinates are written with one decimal, so the same numbers give the same bytes. A chart is `Markup`: it stands in a
template as it is, so every text in it is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from markupsafe import Markup

STYLES = ("arm", "baseline")  # classes of the style sheet, for the arms in their order
_CHARACTER = 6.6  # width of a character at the charts' font size of 12, on the generous side


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: Label at its end.
        style: Class of the page's style sheet.
        x, y: [T].
        half: [T], half-width of the band; NaN for none.
    """

    name: str
    style: str
    x: np.ndarray
    y: np.ndarray
    half: np.ndarray


@dataclass(frozen=True)
class Crossing:
    """Where a curve meets the target: labels, the series' class, and the text below."""

    x: float
    style: str
    text: str


def ticks(low: float, high: float, about: int) -> np.ndarray:
    """Round numbers from low to high, ``about`` as many as asked."""
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    return np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step


def every(points: Sequence[float], most: int) -> Sequence[float]:
    """Every n-th point from the first, at most ``most`` of them: an axis shows label counts that were measured."""
    return points[:: math.ceil(len(points) / most)]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    width: int,
    height: int,
    style: str = "",
    target: tuple[float, str] | None = None,
    crossings: Sequence[Crossing] = (),
    x_label: str = "labels acquired",
    x_ticks: Sequence[float] = (),
) -> Markup:
    """Curves with bands, named at their ends.

    Args:
        title: What is drawn and its unit; also the accessible name.
        series: At least one.
        width, height: Of the view box; text is 12 units high in it.
        style: Further classes of the svg element.
        target: A horizontal line and its text.
        crossings: Marked on the target line and on the axis below.
        x_label: Name of the horizontal axis.
        x_ticks: Where it may be marked; by default where the first curve was measured.
    """
    right = 14 + _CHARACTER * max(len(s.name) for s in series)
    box = _Box(42, width - right, 12, height - 38, *_limits(series, target))
    out = [
        f'<svg class="chart {style}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
        *_axes(box, x_ticks or series[0].x.tolist(), x_label),
    ]
    if target:
        y = box.y(target[0])
        out.append(f'<line class="target" x1="{box.left}" x2="{box.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for s in series:
        out += _band(box, s)
    for s in series:
        out += _line(box, s, x_label)
    if target:
        out.append(f'<text class="note" x="{box.left + 6}" y="{box.y(target[0]) - 6:.1f}">{escape(target[1])}</text>')
        out += _crossings(box, target[0], crossings)
    out += _names(box, series)
    return Markup("".join([*out, "</svg>"]))


def wide_and_narrow(
    title: str,
    series: Sequence[Series],
    target: tuple[float, str] | None = None,
    crossings: Sequence[Crossing] = (),
) -> Markup:
    """A chart drawn for a desk and for a phone; the style sheet shows one of the two. Arguments as of `line_chart`."""
    wide, narrow = (
        line_chart(title, series, width=width, height=height, style=style, target=target, crossings=crossings)
        for width, height, style in ((960, 420, "wide"), (370, 320, "narrow"))
    )
    return wide + narrow


def share_bar(shares: Sequence[tuple[str, float]], label: str) -> Markup:
    """A bar of shares that add up to one, as wide as its place; each part wide enough carries its percentage."""
    parts, at = [], 0.0
    for index, (name, share) in enumerate(shares):
        if share <= 0:
            continue
        parts.append(
            f'<rect class="part p{index % 6}" x="{100 * at:.2f}%" width="{100 * share:.2f}%" height="22">'
            f"<title>{escape(name)}: {100 * share:.0f}%</title></rect>"
        )
        if share >= 0.06:
            parts.append(
                f'<text class="q{index % 6}" x="{100 * (at + share / 2):.2f}%" y="15">{100 * share:.0f}</text>'
            )
        at += share
    words = ", ".join(f"{name} {100 * share:.0f}%" for name, share in shares)
    return Markup(
        f'<svg class="shares" height="22" role="img" aria-label="{escape(f"{label}: {words}")}">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True)
class _Box:
    """The plot area in view-box units and the data it shows."""

    left: float
    right: float
    top: float
    bottom: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return self.left + (value - self.x_low) / (self.x_high - self.x_low) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.y_low) / (self.y_high - self.y_low) * (self.bottom - self.top)


def _limits(series: Sequence[Series], target: tuple[float, str] | None) -> tuple[float, float, float, float]:
    half = [np.nan_to_num(s.half) for s in series]
    lows = [float((s.y - h).min()) for s, h in zip(series, half, strict=True)]
    highs = [float((s.y + h).max()) for s, h in zip(series, half, strict=True)]
    low, high = min(lows), max(highs)
    if target:
        low, high = min(low, target[0]), max(high, target[0])
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    x_low, x_high = min(float(s.x.min()) for s in series), max(float(s.x.max()) for s in series)
    if x_low == x_high:
        x_low, x_high = x_low - 1, x_high + 1
    return x_low, x_high, low - margin, high + margin


def _axes(box: _Box, points: Sequence[float], x_label: str) -> list[str]:
    out = []
    values = ticks(box.y_low, box.y_high, max(3, round((box.bottom - box.top) / 48)))
    step = values[1] - values[0] if len(values) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step < 1 else 0
    digits += step < 1 and round(step * 10**digits, 6) % 1 != 0
    for value in values:
        y = box.y(value)
        out.append(f'<line class="grid" x1="{box.left}" x2="{box.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="tick" x="{box.left - 7}" y="{y + 4:.1f}" text-anchor="end">{value:.{digits}f}</text>')
    for value in every(points, max(2, int((box.right - box.left) / 56))):
        x = box.x(value)
        out.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{box.bottom}" y2="{box.bottom + 4}"/>')
        out.append(f'<text class="tick" x="{x:.1f}" y="{box.bottom + 17}" text-anchor="middle">{value:,.0f}</text>')
    out.append(f'<line class="axis" x1="{box.left}" x2="{box.right:.1f}" y1="{box.bottom}" y2="{box.bottom}"/>')
    middle = (box.left + box.right) / 2
    out.append(
        f'<text class="tick" x="{middle:.1f}" y="{box.bottom + 33}" text-anchor="middle">{escape(x_label)}</text>'
    )
    return out


def _points(box: _Box, x: np.ndarray, y: np.ndarray) -> list[str]:
    return [f"{box.x(a):.1f},{box.y(b):.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True)]


def _band(box: _Box, s: Series) -> list[str]:
    if np.isnan(s.half).any() or not s.half.any():
        return []
    edge = _points(box, s.x, s.y + s.half) + _points(box, s.x, s.y - s.half)[::-1]
    return [f'<polygon class="band {s.style}" points="{" ".join(edge)}"/>']


def _line(box: _Box, s: Series, x_label: str) -> list[str]:
    out = [f'<polyline class="line {s.style}" points="{" ".join(_points(box, s.x, s.y))}"/>']
    for x, y, half in zip(s.x.tolist(), s.y.tolist(), s.half.tolist(), strict=True):
        within = "" if math.isnan(half) else f" \N{PLUS-MINUS SIGN} {half:.3g}"
        out.append(
            f'<circle class="dot {s.style}" cx="{box.x(x):.1f}" cy="{box.y(y):.1f}" r="2.6">'
            f"<title>{escape(s.name)}; {escape(x_label)} {x:,.0f}: {y:.4g}{within}</title></circle>"
        )
    return out


def _crossings(box: _Box, target: float, crossings: Sequence[Crossing]) -> list[str]:
    out: list[str] = []
    end, row = -math.inf, 0
    for c in sorted(crossings, key=lambda c: c.x):
        x, y, width = box.x(c.x), box.y(target), _CHARACTER * len(c.text)
        out.append(f'<line class="drop {c.style}" x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{box.bottom}"/>')
        out.append(f'<circle class="ring {c.style}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')
        anchor = x + 5 if x + 5 + width <= box.right else x - 5 - width
        row = 0 if anchor > end else row + 1
        end = anchor + width
        out.append(
            f'<text class="name {c.style}" x="{anchor:.1f}" y="{box.bottom - 7 - 15 * row:.1f}">{escape(c.text)}</text>'
        )
    return out


def _names(box: _Box, series: Sequence[Series]) -> list[str]:
    """Names at the curves' ends, pushed apart until none covers another."""
    places: list[tuple[float, Series]] = []
    for s in sorted(series, key=lambda s: float(s.y[-1])):
        y = box.y(float(s.y[-1]))
        places.append((min(y, places[-1][0] - 14) if places else y, s))
    lift = max(0.0, box.top + 4 - places[-1][0])
    x = box.right + 8
    return [
        f'<text class="name {s.style}" x="{x:.1f}" y="{y + lift + 4:.1f}">{escape(s.name)}</text>' for y, s in places
    ]
