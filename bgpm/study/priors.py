"""How well the prior precision is chosen: accuracy against that of the best fixed precision, known in hindsight.

For each pool and label count: models of uniformly drawn labels, on one set of features, whose precision the labels
chose (by held-out likelihood, by evidence), and models with fixed precisions. The *regret* of a choice is how much
accuracy on held-out prompts, mean over seeds, the best fixed precision has more. The best is taken on the very prompts
that it is measured on, so that a regret is too high by chance, not too low; a choice made anew for each seed can be
ahead of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bgpm.data.tables import read_table, where
from bgpm.evaluation.savings import Trials, resample
from bgpm.stage import generator
from bgpm.study import StudyPlan
from bgpm.study.feature_sets import intervals, named_ends, trials

COLUMNS = (
    "pool", "features", "labels", "choice", "accuracy", "best_fixed", "best_accuracy", "regret", "regret_low",
    "regret_high", "seeds",
)  # fmt: skip


def choices(plan: StudyPlan) -> dict[str, str | float]:
    """Values of ``prior_precision``, by the name that tables give them."""
    study = plan.feature_sets.priors
    return {name: name for name in study.choices} | {f"{v:g}": v for v in study.fixed}


def rows(plan: StudyPlan, folder: Path) -> Iterator[dict[str, object]]:
    """Lines of ``priors.csv``: each choice's accuracy and its regret, with a 95% BCa interval given the best."""
    study = plan.feature_sets
    for pool in study.pools:
        table = read_table(folder / pool / "prompts.parquet")
        found = {name: trials(where(table, table["choice"] == name)) for name in choices(plan)}
        for choice in study.priors.choices:
            for t, labels in enumerate(found[choice].labels):
                best = best_fixed(found, [f"{v:g}" for v in study.priors.fixed], t)
                curves = resample(found[best], found[choice], plan.resamples, generator("study", pool, "priors"))
                yield {
                    "pool": pool,
                    "features": study.priors.features,
                    "labels": int(labels),
                    "choice": choice,
                    "accuracy": f"{curves.baseline[t]:.4f}",
                    "best_fixed": best,
                    "best_accuracy": f"{curves.arm[t]:.4f}",
                    "regret": f"{curves.arm[t] - curves.baseline[t]:.4f}",
                    **named_ends("regret_", intervals(curves, t)[1]),
                    "seeds": len(found[choice].right),
                }


def best_fixed(found: Mapping[str, Trials], names: Sequence[str], t: int) -> str:
    """The precision with the highest accuracy, mean over seeds, at the label count t; the lowest of equals."""
    return names[int(np.argmax([found[name].curves[:, t].mean() for name in names]))]


def markdown(lines: Sequence[Mapping[str, object]]) -> list[str]:
    """A table a choice: regret by pool and labels, in points, with its interval and the best fixed precision."""
    first = lines[0]
    out = [
        "## What the choice of the prior precision costs",
        "",
        f"Set `{first['features']}`, the same draws. How many points of accuracy the best fixed precision (after the "
        "colon), which only hindsight knows, has more than each choice, with a 95% interval given that one.",
        "",
    ]
    counts = list(dict.fromkeys(line["labels"] for line in lines))
    for choice in dict.fromkeys(line["choice"] for line in lines):
        here = {(line["pool"], line["labels"]): line for line in lines if line["choice"] == choice}
        out += [f"| `{choice}` | " + " | ".join(f"{n} labels" for n in counts) + " |", "|---" * (len(counts) + 1) + "|"]
        for pool in dict.fromkeys(pool for pool, _ in here):
            out.append(f"| {pool} | " + " | ".join(_cell(here[pool, n]) for n in counts) + " |")
        out.append("")
    return out


def _cell(line: Mapping[str, object]) -> str:
    regret, low, high = (
        f"{100 * float(str(line[name] or 'nan')):+.1f}" for name in ("regret", "regret_low", "regret_high")
    )
    return f"{regret} ({low} to {high}): {line['best_fixed']}"
