"""What to expect from the next rounds, as the page and the Markdown report say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from bgpm.evaluation.arm import Arm
from bgpm.evaluation.forecast import HORIZON
from bgpm.evaluation.result import Result
from bgpm.evaluation.savings import band
from bgpm.reporting.charts import Series, line_chart
from bgpm.reporting.shown import TableRow, styled
from bgpm.reporting.words import count, ends, percent
from bgpm.stage import round_dir


@dataclass(frozen=True)
class ToCome:
    """What comes after the last round.

    Attributes:
        outlook: A forecast by arm.
        batch: What `next_batch` gives; None where no pair is left.
        model: Folder of the last round's model.
    """

    outlook: Mapping[str, Any]
    batch: Mapping[str, str] | None
    model: str


def expectations(result: Result, to_come: ToCome) -> dict[str, Any] | None:
    """What the page says of the rounds to come; None where no arm has an outlook."""
    outlook = to_come.outlook
    known = [(arm, style, outlook[arm.name]) for arm, style in styled(result.arms) if outlook.get(arm.name)]
    if not known:
        return None
    ahead = [(arm, style, found) for arm, style, found in known if "missing" not in found]
    notes = [
        f"{arm.title}: " + (f"{found['missing']}." if "missing" in found else kept_words(found))
        for arm, _, found in known
    ]
    return {
        "notes": out_of_reach(outlook) + notes,
        "batch": to_come.batch,
        "figures": [_carried_on(arm, style, found) for arm, style, found in ahead],
        "arms": [
            {
                "title": arm.title,
                "style": style,
                "rounds": [TableRow([f"{count(r['labels'])} labels", *round_cells(r)]) for r in found["rounds"]],
                "reach": [
                    TableRow([f"{percent(r['target'], 1)}, {100 * r['gain']:.0f} more", *reach_cells(r)])
                    for r in found["reach"]
                ],
            }
            for arm, style, found in ahead
        ],
    }


def next_batch(arm: str, last: int, *, by_people: bool) -> dict[str, str]:
    """Commands that label an arm's next batch, and that print it once it is chosen.

    Args:
        arm: Its name in params.yaml.
        last: The round that ends the run.
        by_people: Whether people label on the page, which asks for one batch after another.
    """
    more = f'dvc exp run -S "rounds=$(bgpm rounds {last + 1})"'
    return {
        "label": f"{more}; bgpm annotate --run" if by_people else more,
        "show": f"bgpm batch {round_dir(arm, last)}/batch.parquet",
    }


def _carried_on(arm: Arm, style: str, found: Mapping[str, Any]) -> tuple[str, Markup]:
    """Title and chart of the measured curve, and of the intervals to come around their middles."""
    mean, half = band(100 * arm.trials.curves)
    ahead = {name: np.array([r[name] for r in found["rounds"]], float) for name in ("labels", "low", "high")}
    middle, width = 50 * (ahead["high"] + ahead["low"]), 50 * (ahead["high"] - ahead["low"])
    lines = [
        Series(arm.title, style, arm.labels, mean, half),
        Series("forecast", "other", ahead["labels"], middle, width),
    ]
    title = f"Held-out accuracy of {arm.title}, %, and 95% intervals to come"
    x = np.concatenate([arm.labels, ahead["labels"]])
    return title, line_chart(title, lines, width=360, height=220, x_ticks=x.tolist())


def out_of_reach(outlook: Mapping[str, Any]) -> list[str]:
    """What that means and what chance is of, in a sentence; none where nothing is forecast."""
    horizons = [found["horizon"] for found in outlook.values() if "horizon" in found]
    if not horizons:
        return []
    most = "labels than the pool has"
    if max(horizons) == HORIZON:
        most = f"than {HORIZON:.0f} times the labels so far"
    return [f"Out of reach is what takes more {most}; chance is that of getting there before."]


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
