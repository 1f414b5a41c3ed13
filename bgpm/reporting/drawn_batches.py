"""What drawn batches say of the model before them: accuracy and likelihood on pairs without a label, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bgpm.evaluation.arm import Arm
from bgpm.evaluation.estimates import METRICS, SPLIT
from bgpm.reporting.shown import shown
from bgpm.reporting.words import count, percent

TITLE = "Estimated before its labels were used"
LEAD = (
    "How good each round's model is on the pairs that had no label then, from the labels of the batch drawn next, "
    "before these trained a model. Draws have known probabilities: the estimates are unbiased, may lie outside of what "
    "is possible, and spend no held-out label. Means over seeds, with 95% intervals of what the draws leave open."
)
HEAD = ["accuracy", "95% interval", "NLL, nats", "95% interval"]


def estimate_cells(arm: Arm) -> list[list[str]]:
    """Of each point of the curve with an estimate: labels, accuracy, its interval, likelihood, its interval."""
    from scipy.stats import t

    out = []
    for at, labels in enumerate(arm.labels):
        cells = [count(labels)]
        for metric in METRICS:
            found = [arm.values.get((SPLIT, "all", f"{metric}{part}")) for part in ("", "_error", "_labels")]
            if any(values is None for values in found):
                break
            value, error, drawn = (values[:, at] for values in found if values is not None)
            if not np.isfinite(value).all():
                break
            half = float(np.sqrt((error**2).sum()) / len(error) * t.ppf(0.975, max((drawn - 1).sum(), 1)))
            shown = (lambda x: percent(x, 1)) if metric == "accuracy" else (lambda x: f"{x:.3f}")
            low, high = value.mean() - half, value.mean() + half
            cells += [shown(value.mean()), "not known" if np.isnan(half) else f"{shown(low)} to {shown(high)}"]
        else:
            out.append(cells)
    return out


def estimates_markdown(arms: Sequence[Arm]) -> list[str]:
    """Lines of the Markdown report; none where no batch was drawn."""
    lines = []
    for arm in arms:
        if cells := estimate_cells(arm):
            lines += ["", f"| {arm.title}: labels | {' | '.join(HEAD)} |", "|" + "---:|" * 5]
            lines += [f"| {' | '.join(some)} |" for some in cells]
    return ["", f"## {TITLE}", "", LEAD, *lines] if lines else []


def estimates_section(arms: Sequence[Arm]) -> dict[str, Any] | None:
    """What the page shows of it; None where no batch was drawn."""
    found = shown(arms, estimate_cells)
    return {"title": TITLE, "lead": LEAD, "head": HEAD, "arms": found} if found else None
