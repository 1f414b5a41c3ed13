"""What two arms show beside each other: the saving at each target, and whether anything can be said of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bgpm.errors import StateError
from bgpm.evaluation import AuditSettings
from bgpm.evaluation.arm import Arm
from bgpm.evaluation.audit import level, right_share
from bgpm.evaluation.savings import (
    INDICATIVE_BELOW,
    Comparison,
    Difference,
    aulc_difference,
    baseline_gain,
    compare,
    compare_at,
    resample,
    saturated,
)

TARGETS = (0.90, 0.95, 0.98)  # shares of right labels whose price in labels is asked
AUDIT_COUNTS = ("given", "inferred", "audited", "wrong", "pool")
SHARES = (0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True)
class Result:
    """What the report says.

    Attributes:
        arm: The acquisition function's results.
        baseline: What it is compared with; None where only one arm was run.
        target: Share of the baseline's gain that the headline asks for.
        comparisons: One for each share, ascending; empty without a baseline.
        area: Difference of the areas under the curves; None without a baseline.
        gain: What the baseline gains from its first to its last labels; None without a baseline.
        learned: Whether the baseline's gain is above 0 (for a single seed its value, otherwise its 80% interval, which
            is a one-sided test at 90%).
        saturated: Whether the baseline stops climbing before its last labels.
        pool: Results on the labelled pool; None where the pool's true labels are not known.
        goal: Which goal leads the report: ``model`` or ``pool``.
    """

    arm: Arm
    baseline: Arm | None
    target: float
    comparisons: tuple[Comparison, ...]
    area: Difference | None
    gain: Difference | None
    learned: bool
    saturated: bool
    pool: PoolResult | None = None
    goal: str = "model"

    @property
    def arms(self) -> list[Arm]:
        """The arms, the acquisition function's first."""
        return [self.arm] if self.baseline is None else [self.arm, self.baseline]

    @property
    def headline(self) -> Comparison | None:
        """The comparison at the target that params.yaml asks for."""
        return next((c for c in self.comparisons if c.share == self.target), None)

    @property
    def indicative(self) -> bool:
        """Whether there are too few seeds for the interval's coverage."""
        return len(self.arm.seeds) < INDICATIVE_BELOW


def study(arm: Arm, baseline: Arm | None, *, target: float, resamples: int, rng: np.random.Generator) -> Result:
    """Compare two arms, or describe one.

    Args:
        target: Share of the baseline's gain that the headline asks for, in (0, 1].
        resamples: Bootstrap draws behind every interval.

    Raises:
        StateError: If the arms were not run over the same seeds, rounds and held-out prompts.
    """
    if baseline is None:
        return Result(arm, None, target, (), None, None, True, False)
    for what in ("seeds", "rounds", "labels"):
        mine, other = getattr(arm, what).tolist(), getattr(baseline, what).tolist()
        if mine != other:
            raise StateError(
                f"arms {arm.name!r} and {baseline.name!r} differ in {what}: {mine} and {other}; they are compared as "
                "pairs: run `dvc repro`"
            )
    if arm.trials.pairs.tolist() != baseline.trials.pairs.tolist():
        raise StateError(
            f"arms {arm.name!r} and {baseline.name!r} were not measured on the same held-out pairs; run `dvc repro`"
        )
    curves = resample(arm.trials, baseline.trials, resamples, rng)
    shares = sorted({*SHARES, target})
    at_80 = baseline_gain(curves, 0.8)
    return Result(
        arm,
        baseline,
        target,
        tuple(compare(curves, share) for share in shares),
        aulc_difference(curves),
        baseline_gain(curves),
        (at_80.value if at_80.interval is None else at_80.interval.low) > 0,
        saturated(curves.labels, curves.baseline),
    )


def verdict(result: Result) -> str:
    """One of ``one_arm``, ``no_gain``, ``not_reached``, ``one_seed``, ``saved``, ``cost``, ``undecided``.

    A baseline that did not learn gives no target outside the noise: ``no_gain``, wherever the curves cross.
    """
    c = result.headline
    if c is None:
        return "one_arm"
    if math.isnan(c.saving) or not result.learned:
        return "no_gain"
    if math.isinf(c.saving):
        return "not_reached"
    if c.interval is None:
        return "one_seed"
    if c.interval.low > 0:
        return "saved"
    return "cost" if c.interval.high < 0 else "undecided"


@dataclass(frozen=True)
class PoolResult:
    """Labels that a labelled pool costs, by its share of right labels.

    Attributes:
        right: Of each arm, by name, share of right labels, [S, T].
        comparisons: One for each of `TARGETS`; empty without a baseline.
        certified: Of each arm, by name, the lower bound that audits give, mean over seeds [T]; empty without audits.
        labels_certified: Of each arm, by name, labels until the target is certified, audits counted: the mean over
            seeds, inf where some seed does not reach it.
        target: The share that was to be certified.
    """

    right: dict[str, np.ndarray]
    comparisons: tuple[Comparison, ...]
    certified: dict[str, np.ndarray]
    labels_certified: dict[str, float]
    target: float


def pool_result(
    arms: list[Arm], *, audit: AuditSettings, looks: int, resamples: int, rng: np.random.Generator
) -> PoolResult | None:
    """Results on the labelled pool, of one arm or two; None where the pool's true labels are not known.

    Args:
        audit: Target and chance of error of the bound.
        looks: Bounds of a campaign, planned.
        resamples: Bootstrap draws of seeds behind every interval; the pool itself is given, it is not drawn.
    """
    trials = [arm.pool_trials() for arm in arms]
    if not trials or any(t is None for t in trials):
        return None
    known = [t for t in trials if t is not None]
    comparisons: tuple[Comparison, ...] = ()
    if len(known) > 1:
        curves = resample(known[0], known[1], resamples, rng)
        comparisons = tuple(compare_at(curves, target) for target in TARGETS)
    certified, labels = {}, {}
    for arm in arms:
        counts = [arm.curve("pool", "all", f"audit_{name}") for name in AUDIT_COUNTS]
        if any(c is None for c in counts):
            continue
        given, inferred, audited, wrong, pool = (c.astype(np.int64) for c in counts if c is not None)
        bound = right_share(given, inferred, audited, wrong, pool, level(audit.alpha, 1, looks))
        certified[arm.name] = bound.mean(0)
        reached = bound >= audit.target
        spent = arm.labels[reached.argmax(1)] + np.take_along_axis(audited, reached.argmax(1)[:, None], 1)[:, 0]
        labels[arm.name] = float(np.where(reached.any(1), spent, np.inf).mean())
    right = {arm.name: t.curves for arm, t in zip(arms, known, strict=True)}
    return PoolResult(right, comparisons, certified, labels, audit.target)
