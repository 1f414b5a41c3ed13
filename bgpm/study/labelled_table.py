"""What the loops over whole pools say: labels to so many right ones, with intervals and the null control.

A saving is 1 - labels of the arm / labels of its baseline to one share of right labels, both read off mean curves as in
`bgpm.evaluation.savings`. Intervals draw paired seeds; the pool itself is given. After a seed's last round its curve is
drawn straight to the whole pool, where every label is a given one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bgpm.data.tables import read_table, where
from bgpm.evaluation.arm import read_optional
from bgpm.evaluation.certificate import AUDIT_COUNTS, bounds
from bgpm.evaluation.savings import Comparison, Trials, compare_at, isotonic, labels_to, resample
from bgpm.loop.pool import Table
from bgpm.stage import generator
from bgpm.study import ArmPlan, LabelledPools
from bgpm.study.table import written

COLUMNS = (
    "pool", "pairs", "arm", "acquisition", "baseline", "target", "share_arm", "share_baseline", "saving", "low", "high",
    "null_low", "null_high", "certified_arm", "certified_baseline", "seeds", "reached", "default",
)  # fmt: skip


@dataclass(frozen=True)
class Curves:
    """One arm on one pool.

    Attributes:
        labels: float64 [T], label counts, the last is the whole pool.
        right: float64 [S, T], share of right labels.
        pairs: Pairs of the pool.
        certified: Mean over seeds of the labels, audits counted, until the audits' lower bound reaches the target, as a
            share of the pool; the whole pool where it does not. NaN without audits.
    """

    labels: np.ndarray
    right: np.ndarray
    pairs: int
    certified: float


@dataclass(frozen=True)
class WholeOutcome:
    """One arm on one pool beside a baseline.

    Attributes:
        pool, arm, baseline: Their names.
        plan: What the arm is.
        curves, against: Of the arm and of its baseline.
        comparisons: One for each target; none where the arm is in hindsight.
    """

    pool: str
    arm: str
    baseline: str
    plan: ArmPlan
    curves: Curves
    against: Curves
    comparisons: tuple[Comparison, ...]

    def at(self, target: float) -> Comparison:
        """The comparison at one target."""
        return next(c for c in self.comparisons if c.target == target)


def whole_outcomes(study: LabelledPools, folder: Path, resamples: int) -> Iterator[WholeOutcome]:
    """Every arm of every pool beside its baseline, and beside the arm that all are compared with."""
    for pool in study.pools:
        found = {arm: read_curves(folder / "loops" / pool / arm, study) for arm in study.arms}
        for arm in study.arms:
            plan = study.arm_plans[arm]
            for baseline in dict.fromkeys([plan.baseline, study.beside]):
                mine, other = on_one_grid(found[arm], found[baseline])
                comparisons: tuple[Comparison, ...] = ()
                if not plan.hindsight and baseline != arm:
                    curves = resample(mine, other, resamples, generator("study", pool))
                    comparisons = tuple(compare_at(curves, target) for target in study.targets)
                yield WholeOutcome(pool, arm, baseline, plan, found[arm], found[baseline], comparisons)


def read_curves(folder: Path, study: LabelledPools) -> Curves:
    """Curves of one arm as its stage wrote them, all seeds on the same label counts."""
    table = read_table(folder / "curve.parquet", ["seed", "labels", "split", "metric", "value"])
    table = where(table, table["split"] == "pool")
    whole = read_optional(folder / "summary.json")["pairs"]
    counts = np.unique(np.append(table["labels"], whole)).astype(np.float64)
    right, certified = [], []
    for seed in np.unique(table["seed"]):
        mine = where(table, table["seed"] == seed)
        curve = {name: where(mine, mine["metric"] == name) for name in np.unique(mine["metric"])}
        given = curve["right"]
        right.append(np.interp(counts, np.append(given["labels"], whole), np.append(given["value"], 1.0)))
        certified.append(_certified(curve, study) / whole)
    return Curves(counts, np.array(right), whole, float(np.mean(certified)))


def _certified(curve: Mapping[str, Table], study: LabelledPools) -> float:
    """Labels of one campaign until its audits certify the target, audits counted; all of them where they never do."""
    if "audit_pool" not in curve:
        return math.nan
    counts = {name: curve[f"audit_{name}"]["value"].astype(np.int64) for name in AUDIT_COUNTS}
    reached = bounds(list(counts.values()), study.audit.alpha) >= study.audit.target
    spent = np.minimum(curve["audit_pool"]["labels"] + counts["audited"], counts["pool"])
    return float(spent[reached.argmax()] if reached.any() else counts["pool"][0])


def on_one_grid(arm: Curves, baseline: Curves) -> tuple[Trials, Trials]:
    """Both arms on the label counts of either, by linear interpolation from the first that both were measured at."""
    labels = np.union1d(arm.labels, baseline.labels)
    labels = labels[labels >= max(arm.labels[0], baseline.labels[0])]

    def made(curves: Curves) -> Trials:
        right = np.stack([np.interp(labels, curves.labels, seed) for seed in curves.right])
        return Trials(labels, right[:, :, None] * curves.pairs, np.array([float(curves.pairs)]))

    return made(arm), made(baseline)


def labels_needed(curves: Curves, target: float) -> float:
    """Labels until a share of the pool's labels is right, as a share of the pool."""
    return float(labels_to(curves.labels, isotonic(curves.right.mean(0)), np.asarray(target))) / curves.pairs


def rows(outcome: WholeOutcome) -> Iterator[dict[str, object]]:
    """Lines of ``pool_labels.csv``, one a target."""
    for c in outcome.comparisons:
        null = c.null
        numbers = {
            "share_arm": c.labels_arm / outcome.curves.pairs,
            "share_baseline": c.labels_baseline / outcome.curves.pairs,
            "saving": c.saving,
            "low": c.interval.low if c.interval else math.nan,
            "high": c.interval.high if c.interval else math.nan,
            "null_low": null.low if null else math.nan,
            "null_high": null.high if null else math.nan,
            "certified_arm": outcome.curves.certified,
            "certified_baseline": outcome.against.certified,
        }
        yield {
            "pool": outcome.pool,
            "pairs": outcome.curves.pairs,
            "arm": outcome.arm,
            "acquisition": outcome.plan.acquisition,
            "baseline": outcome.baseline,
            "target": c.target,
            **{name: written(value) for name, value in numbers.items()},
            "seeds": len(outcome.curves.right),
            "reached": round(c.reached, 4),
            "default": outcome.plan.default,
        }
