"""What to expect from the next rounds, as the page and the Markdown report say it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from bgpm.evaluation.arm import Arm
from bgpm.evaluation.result import Result
from bgpm.evaluation.savings import band
from bgpm.reporting.charts import STYLES, Series, line_chart
from bgpm.reporting.html import block, row, table
from bgpm.reporting.words import count, ends, percent


def expectations(result: Result, outlook: Mapping[str, Any]) -> str:
    """The section on the rounds to come; nothing where no arm has an outlook."""
    shown = [(arm, style) for arm, style in zip(result.arms, STYLES, strict=False) if outlook.get(arm.name)]
    if not shown:
        return ""
    charts, tables, notes = [], [], []
    for arm, style in shown:
        found, name = outlook[arm.name], escape(arm.title)
        if "missing" in found:
            notes.append(f"{name}: {escape(found['missing'])}.")
            continue
        charts.append(_carried_on(arm, style, found))
        rows = [row(f"{count(r['labels'])} labels", round_cells(r)) for r in found["rounds"]]
        tables.append(table([f'<span class="{style}">{name}</span>', "held-out accuracy", "95% interval"], rows))
        rows = [row(f"{percent(r['target'], 1)}, {100 * r['gain']:.0f} more", reach_cells(r)) for r in found["reach"]]
        tables.append(table([f'<span class="{style}">{name}</span>', "labels left", "95% interval", "chance"], rows))
        notes.append(f"{name}: {escape(kept_words(found))}")
    lead = (
        "If the next rounds are like the last ones. A power law is carried on; the intervals hold the noise of "
        f"measuring on these held-out prompts.{out_of_reach(outlook)} {' '.join(notes)}"
    )
    return block(
        "What to expect from the next rounds", lead, f'<div class="grid">{"".join(charts)}</div>\n' + "\n".join(tables)
    )


def _carried_on(arm: Arm, style: str, found: Mapping[str, Any]) -> str:
    """The measured curve, and the intervals to come around their middles."""
    mean, half = band(100 * arm.trials.curves)
    ahead = {name: np.array([r[name] for r in found["rounds"]], float) for name in ("labels", "low", "high")}
    middle, width = 50 * (ahead["high"] + ahead["low"]), 50 * (ahead["high"] - ahead["low"])
    lines = [
        Series(arm.title, style, arm.labels, mean, half),
        Series("forecast", "other", ahead["labels"], middle, width),
    ]
    title = f"Held-out accuracy of {arm.title}, %, and 95% intervals to come"
    x = np.concatenate([arm.labels, ahead["labels"]])
    chart = line_chart(title, lines, width=360, height=220, x_ticks=x.tolist())
    return f"<figure><h3>{escape(title)}</h3>{chart}</figure>"


def out_of_reach(outlook: Mapping[str, Any]) -> str:
    """What that means and what chance is of, in a sentence; empty where nothing is forecast."""
    horizons = [found["horizon"] for found in outlook.values() if "horizon" in found]
    if not horizons:
        return ""
    return (
        f" Out of reach is what takes more than {max(horizons):.0f} times the labels so far; chance is that of "
        "getting there before."
    )


def round_cells(ahead: Mapping[str, Any]) -> list[str]:
    """Accuracy expected of a round to come and its interval, as text."""
    return [percent(ahead["accuracy"], 1), ends(ahead["low"], ahead["high"], 1)]


def reach_cells(reach: Mapping[str, Any]) -> list[str]:
    """Labels left, their interval and the probability to get there, as text."""
    if reach["labels"] is None and reach["low"] is None:
        return ["out of reach", "", percent(reach["probability"])]
    low, middle, high = (_left(reach[name]) for name in ("low", "labels", "high"))
    return [middle, f"{low} to {high}", percent(reach["probability"])]


def _left(labels: int | None) -> str:
    return "out of reach" if labels is None else count(labels)


def kept_words(found: Mapping[str, Any]) -> str:
    """Coverage of the forecasts that could have been made after earlier rounds, in a sentence."""
    tested = found["backtest"]
    if tested is None:
        return "no forecast could be held against a later round yet."
    one, every = tested["next_round"], tested["all_rounds"]
    return (
        f"of the forecasts that could have been made on the way, {one['inside']} of {one['forecasts']} intervals held "
        f"the next round\u2019s accuracy and {every['inside']} of {every['forecasts']} that of any later round (mean "
        f"error of the next round {100 * one['error']:.1f} points)."
    )
