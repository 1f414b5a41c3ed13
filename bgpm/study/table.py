"""What the study's loops say: savings of every arm on every pool, with intervals and the null control.

The statistics are those of the report (`bgpm.evaluation.savings`). Where a pool has several sources, each held-out
prompt weighs so that accuracy is the plain mean over sources.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bgpm.data.tables import read_table
from bgpm.errors import StateError
from bgpm.evaluation.savings import (
    Comparison,
    Difference,
    Resamples,
    Trials,
    aulc_difference,
    baseline_gain,
    compare,
    resample,
    saturated,
)
from bgpm.stage import generator
from bgpm.study import ArmPlan, StudyPlan

COLUMNS = (
    "pool", "arm", "acquisition", "posterior", "model", "selection", "batch_size", "baseline", "target", "saving",
    "low", "high", "null_low", "null_high", "labels_arm", "labels_baseline", "seeds", "reached", "saturated", "default",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One arm against its baseline on one pool.

    Attributes:
        pool, arm: Their names.
        plan: What the arm is.
        curves: Mean curves over labels, as they are and resampled, on the labels that both arms have points at.
        trials: The arm's own results on those labels.
        comparisons: One for each target.
        area: Difference of the areas under the curves.
        gain: What the baseline gains.
        saturated: Whether the baseline stops climbing before its last labels.
    """

    pool: str
    arm: str
    plan: ArmPlan
    curves: Resamples
    trials: Trials
    comparisons: tuple[Comparison, ...]
    area: Difference
    gain: Difference
    saturated: bool

    def at(self, share: float) -> Comparison:
        """The comparison at one target."""
        return next(c for c in self.comparisons if c.share == share)


def outcomes(plan: StudyPlan, folder: Path) -> Iterator[Outcome]:
    """Every arm of every pool, in the order of the plan; a baseline is compared with itself, which saves nothing.

    Raises:
        StateError: If a loop's results are missing or do not fit together.
    """
    for pool in plan.pools:
        source = held_out_source(folder / "tables" / pool) if len(plan.pool_plans[pool].sources) > 1 else None
        trials = {arm: read_trials(folder / "loops" / pool / arm, source) for arm in plan.arms_of(pool)}
        for arm in plan.arms_of(pool):
            arm_plan = plan.arm_plans[arm]
            mine, baseline = shared(trials[arm], trials[arm_plan.baseline])
            # the same draws for every arm of a pool: their intervals differ by what the arms do
            curves = resample(mine, baseline, plan.resamples, generator("study", pool))
            yield Outcome(
                pool,
                arm,
                arm_plan,
                curves,
                mine,
                tuple(compare(curves, share) for share in plan.shares),
                aulc_difference(curves),
                baseline_gain(curves),
                saturated(curves.labels, curves.baseline),
            )


def held_out_source(folder: Path) -> dict[int, str]:
    """Source of each held-out prompt, by its row."""
    table = read_table(folder / "pairs.parquet", ["prompt", "section", "split"])
    here = table["split"] == "heldout"
    return dict(zip(table["prompt"][here].tolist(), table["section"][here].tolist(), strict=True))


def read_trials(folder: Path, source: dict[int, str] | None = None) -> Trials:
    """Held-out responses of one arm by prompt.

    Args:
        source: Source of each prompt, where accuracy is to be the mean over sources.
    """
    path = folder / "prompts.parquet"
    table = read_table(path, ["seed", "round", "prompt", "pairs", "right"])
    curve = read_table(folder / "curve.parquet", ["round", "labels"])
    names = [np.unique(table[column]) for column in ("seed", "round", "prompt")]
    shape = tuple(map(len, names))
    if math.prod(shape) != len(table["right"]):
        raise StateError(
            f"{path}: {len(table['right'])} rows for seeds, rounds and prompts {shape}; run the study again"
        )
    cells = tuple(np.searchsorted(n, table[c]) for n, c in zip(names, ("seed", "round", "prompt"), strict=True))
    right, pairs = np.empty(shape), np.empty(shape)
    right[cells], pairs[cells] = table["right"], table["pairs"]
    labels = np.array([curve["labels"][curve["round"] == k][0] for k in names[1]], np.float64)
    count = pairs[0, 0]
    if source is not None:
        of = np.array([source[prompt] for prompt in names[2].tolist()])
        total = {name: count[of == name].sum() for name in np.unique(of)}
        weight = count.sum() / len(total) / np.array([total[name] for name in of])
        right, count = right * weight, count * weight
    return Trials(labels, right, count)


def shared(arm: Trials, baseline: Trials) -> tuple[Trials, Trials]:
    """Both arms on the label counts that both have: arms with other batch sizes meet every few rounds."""
    labels = np.intersect1d(arm.labels, baseline.labels)

    def thinned(trials: Trials) -> Trials:
        return Trials(labels, trials.right[:, np.isin(trials.labels, labels)], trials.pairs)

    return thinned(arm), thinned(baseline)


def row(outcome: Outcome, comparison: Comparison) -> dict[str, object]:
    """One line of ``savings.csv``; a saving of -inf, and an end of an interval at -inf, read ``not reached``."""
    plan, interval, null = outcome.plan, comparison.interval, comparison.null
    numbers = {
        "saving": comparison.saving,
        "low": interval.low if interval else math.nan,
        "high": interval.high if interval else math.nan,
        "null_low": null.low if null else math.nan,
        "null_high": null.high if null else math.nan,
        "labels_arm": comparison.labels_arm,
        "labels_baseline": comparison.labels_baseline,
    }
    return {
        "pool": outcome.pool,
        "arm": outcome.arm,
        **{name: getattr(plan, name) for name in ("acquisition", "posterior", "model", "selection", "batch_size")},
        "baseline": plan.baseline,
        "target": comparison.share,
        **{name: written(value) for name, value in numbers.items()},
        "seeds": len(outcome.trials.right),
        "reached": round(comparison.reached, 4),
        "saturated": outcome.saturated,
        "default": plan.default,
    }


def written(value: float) -> str:
    """A number of a table: -inf reads ``not reached``, NaN nothing."""
    return "not reached" if math.isinf(value) else "" if math.isnan(value) else f"{value:.4f}"
