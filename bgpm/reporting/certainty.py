"""The section of the page on how far to trust the model: reliability, coverage and best of n of the last round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from bgpm.evaluation.arm import Arm, Figure
from bgpm.evaluation.result import Result
from bgpm.evaluation.savings import band
from bgpm.reporting.charts import Series, line_chart
from bgpm.reporting.shown import styled
from bgpm.reporting.words import count, percent

UNCERTAINTIES = {"entropy": "predictive entropy", "sd": "the score\u2019s standard deviation"}


def certainty(result: Result) -> dict[str, Any] | None:
    """Charts of the last round, with notes in sentences; None where an older run left none."""
    charts = [_reliability(result), *(_coverage(result, name) for name in UNCERTAINTIES), _best_of_n(result)]
    figures = [chart for chart in charts if chart]
    if not figures:
        return None
    metrics = [(f"error_auroc_{name}", words) for name, words in UNCERTAINTIES.items()]
    found = [
        f"{arm.title} {curve[:, -1].mean():.2f} by {words}"
        for arm in result.arms
        for metric, words in metrics
        if (curve := arm.curve("heldout", "all", metric)) is not None
    ]
    notes = [
        "Chance that a wrong prediction is less certain than a right one, 0.50 where uncertainty says nothing: "
        f"{'; '.join(found)}."
    ]
    return {
        "labels": count(result.arm.labels[-1]),
        "figures": figures,
        "notes": (notes if found else []) + _picks(result),
    }


def _picks(result: Result) -> list[str]:
    """How good the best of the most responses is, in a sentence, if that was measured."""
    last = [(arm, rows[-1]) for arm in result.arms if (rows := _of(arm, "best_of_n", "model"))]
    if not last:
        return []
    words = ", ".join(f"{arm.title} {percent(_mean(arm, 'best_of_n', 'model', r.x))}" for arm, r in last)
    return [
        "Best of n: how often the response that the model picks out of n to a prompt wins against the others; "
        f"out of {last[0][1].x:.0f}: {words} "
        f"({last[0][1].count:,} prompts with so many responses that were all compared)."
    ]


def _of(arm: Arm, figure: str, series: str) -> list[Figure]:
    return [f for f in arm.figures if f.figure == figure and f.series == series]


def _mean(arm: Arm, figure: str, series: str, x: float) -> float:
    return float(np.mean([f.y for f in _of(arm, figure, series) if f.x == x]))


def _lines(result: Result, figure: str, series: str, scale: float) -> list[Series]:
    """One line an arm, with a band over seeds."""
    out = []
    for arm, style in styled(result.arms):
        x, y = arm.points(figure, series)
        if len(x) > 1:
            out.append(Series(arm.title, style, scale * x, *band(100 * y)))
    return out


def _chart(title: str, lines: Sequence[Series], x_label: str) -> tuple[str, Markup] | None:
    return (title, line_chart(title, lines, width=360, height=220, x_label=x_label)) if lines else None


def _reliability(result: Result) -> tuple[str, Markup] | None:
    lines = []
    for arm, style in styled(result.arms):
        points = arm.reliability()
        if len(points) > 1:
            x, y = 100 * points.T
            lines.append(Series(arm.title, style, x, y, np.full(len(x), np.nan)))
    if lines:
        ends = np.array([min(s.x.min() for s in lines), max(s.x.max() for s in lines)])
        lines.append(Series("as promised", "other", ends, ends, np.full(2, np.nan)))
    return _chart("Reliability: predicted winner wins, %", lines, "stated probability, %")


def _coverage(result: Result, name: str) -> tuple[str, Markup] | None:
    lines = _lines(result, "coverage", name, 100)
    return _chart(f"Accuracy, %, where {UNCERTAINTIES[name]} is least", lines, "share of pairs, %")


def _best_of_n(result: Result) -> tuple[str, Markup] | None:
    lines = _lines(result, "best_of_n", "model", 1)
    if lines:
        x, y = result.arm.points("best_of_n", "oracle")
        lines.append(Series("best there is", "other", x, 100 * y.mean(0), np.full(len(x), np.nan)))
    return _chart("Best of n: true win rate of the pick, %", lines, "n responses")
