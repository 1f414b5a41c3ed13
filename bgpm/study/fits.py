"""Ways to fit the same labels on the same features: how the prior precision is chosen, and other models.

The *regret* of a choice of the precision is how much more accuracy on held-out prompts, mean over seeds, the best fixed
precision has. The best is taken on the very prompts that it is measured on, so that a regret is too high by chance, not
too low; a choice made anew for each seed can be ahead of it. A model's *gain* is over the first model with the first
choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bgpm.data.tables import read_table, where
from bgpm.evaluation.savings import Resamples, Trials, resample
from bgpm.stage import generator
from bgpm.study import StudyPlan
from bgpm.study.feature_sets import gain_cell, intervals, named_ends, trials

COLUMNS = (
    "pool", "features", "labels", "fit", "accuracy", "gain", "gain_low", "gain_high", "best_fixed", "best_accuracy",
    "regret", "regret_low", "regret_high", "seeds",
)  # fmt: skip


def ways(plan: StudyPlan) -> Mapping[str, tuple[str, dict[str, Any], str | float]]:
    """Model, its settings and its ``prior_precision``, by the name that tables give the fit."""
    study = plan.feature_sets
    first = (study.model, study.settings.get("model") or {})
    chosen = {name: (*first, name) for name in study.fits.choices}
    fixed = {f"{value:g}": (*first, value) for value in study.fits.fixed}
    models = {kind: (kind, settings, study.fits.choices[0]) for kind, settings in study.fits.models.items()}
    return chosen | fixed | models


def rows(plan: StudyPlan, folder: Path) -> Iterator[dict[str, object]]:
    """Lines of ``fits.csv``: accuracy, gain and regret with 95% BCa intervals over seeds and held-out prompts.

    The regret's interval takes the best fixed precision as given.
    """
    study, fits = plan.feature_sets, plan.feature_sets.fits
    empty: dict[str, object] = dict.fromkeys(COLUMNS, "")
    for pool in study.pools:
        table = read_table(folder / pool / "prompts.parquet")
        found = {name: trials(where(table, table["fit"] == name)) for name in ways(plan)}
        first = found[fits.choices[0]]
        best = [best_fixed(found, [f"{value:g}" for value in fits.fixed], t) for t in range(len(first.labels))]
        for name in [*fits.choices, *fits.models]:
            gained = against(plan, pool, found[name], first)
            chosen = dict.fromkeys(best) if name in fits.choices else {}  # models have no regret
            left = {fixed: against(plan, pool, found[fixed], found[name]) for fixed in chosen}
            for t, labels in enumerate(first.labels):
                yield empty | {
                    "pool": pool,
                    "features": fits.features,
                    "labels": int(labels),
                    "fit": name,
                    "accuracy": f"{gained.arm[t]:.4f}",
                    "gain": f"{gained.arm[t] - gained.baseline[t]:.4f}",
                    **named_ends("gain_", intervals(gained, t)[1] if name != fits.choices[0] else None),
                    **(_regret(best[t], left[best[t]], t) if left else {}),
                    "seeds": len(found[name].right),
                }


def against(plan: StudyPlan, pool: str, arm: Trials, baseline: Trials) -> Resamples:
    """Two fits resampled together; the same draws for every two of a pool."""
    return resample(arm, baseline, plan.resamples, generator("study", pool, "fits"))


def _regret(best: str, curves: Resamples, t: int) -> dict[str, object]:
    """Cells of the best fixed precision, at the label count t, and of how much better it is."""
    return {
        "best_fixed": best,
        "best_accuracy": f"{curves.arm[t]:.4f}",
        "regret": f"{curves.arm[t] - curves.baseline[t]:.4f}",
        **named_ends("regret_", intervals(curves, t)[1]),
    }


def best_fixed(found: Mapping[str, Trials], names: Sequence[str], t: int) -> str:
    """The precision with the highest accuracy, mean over seeds, at the label count t; the first of equals."""
    return names[int(np.argmax([found[name].curves[:, t].mean() for name in names]))]


def markdown(plan: StudyPlan, lines: Sequence[dict[str, object]]) -> list[str]:
    """Regret by choice, pool and labels, in points; accuracy of other models, with what they gain."""
    fits = plan.feature_sets.fits
    counts, pools = (list(dict.fromkeys(line[name] for line in lines)) for name in ("labels", "pool"))
    at = {(line["fit"], line["pool"], line["labels"]): line for line in lines}

    def tables(names: Iterable[str], cell: Callable[[dict[str, object]], str]) -> list[str]:
        out = []
        for name in names:
            out += [
                f"| `{name}` | " + " | ".join(f"{n} labels" for n in counts) + " |",
                "|---" * (len(counts) + 1) + "|",
            ]
            out += [f"| {pool} | {' | '.join(cell(at[name, pool, n]) for n in counts)} |" for pool in pools]
            out.append("")
        return out

    out = [
        "## What the choice of the prior precision costs",
        "",
        f"Set `{fits.features}`, the same draws. How many points of accuracy more the best fixed precision has, which "
        "only hindsight knows and which stands after the colon; in brackets the 95% interval, given that precision.",
        "",
        *tables(fits.choices, _regret_cell),
    ]
    if fits.models:
        out += [
            "## Other models",
            "",
            f"The same labels and features. In brackets the gain over `{plan.feature_sets.model}` with a 95% interval.",
            "",
            *tables(fits.models, gain_cell),
        ]
    return out


def _regret_cell(line: Mapping[str, object]) -> str:
    value, low, high = (100 * float(str(line[name] or "nan")) for name in ("regret", "regret_low", "regret_high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f}): {line['best_fixed']}"
