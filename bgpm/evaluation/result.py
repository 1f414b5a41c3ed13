"""What two arms show beside each other: the saving at each target, and whether anything can be said of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bgpm.errors import StateError
from bgpm.evaluation import AuditSettings
from bgpm.evaluation.arm import Arm
from bgpm.evaluation.certificate import Certificate, certificate
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
        pool: Results on the labelled pool; None where its true labels are not known and nothing was audited.
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
    if baseline is not None and arm.measured != baseline.measured:
        raise StateError(f"only one of the arms {arm.name!r} and {baseline.name!r} was measured; run `dvc repro`")
    if baseline is None:
        return Result(arm, None, target, (), None, None, True, False)
    for what in ("seeds", "rounds", "labels"):
        mine, other = getattr(arm, what).tolist(), getattr(baseline, what).tolist()
        if mine != other:
            raise StateError(
                f"arms {arm.name!r} and {baseline.name!r} differ in {what}: {mine} and {other}; they are compared as "
                "pairs: run `dvc repro`"
            )
    if not arm.measured:
        return Result(arm, baseline, target, (), None, None, False, False)
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
    """One of ``not_measured``, ``one_arm``, ``no_gain``, ``not_reached``, ``one_seed``, ``saved``, ``cost`` and
    ``undecided``.

    A baseline that did not learn gives no target outside the noise: ``no_gain``, wherever the curves cross.
    """
    c = result.headline
    if not result.arm.measured:
        return "not_measured"
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
        pairs: Pairs of the pool.
        right: Of each arm, by name, share of right labels, [S, T]; empty where nobody knows the true labels.
        comparisons: One for each of `TARGETS`; empty without a baseline.
        certificates: Of each arm, by name, what audits say; empty without audits.
    """

    pairs: int
    right: dict[str, np.ndarray]
    comparisons: tuple[Comparison, ...]
    certificates: dict[str, Certificate]


def pool_result(
    arms: list[Arm],
    pairs: int,
    *,
    audit: AuditSettings | None,
    looks: int | None,
    resamples: int,
    rng: np.random.Generator,
) -> PoolResult | None:
    """Results on the labelled pool, of one arm or two; None where its true labels are not known, nor audits made.

    Args:
        pairs: Of the pool.
        audit: Target and chance of error of the bound; None where nothing is audited.
        looks: Bounds of a campaign, planned; None for an open number.
        resamples: Bootstrap draws of seeds behind every interval; the pool itself is given, it is not drawn.
    """
    found = {arm.name: certificate(arm, audit, looks) for arm in arms} if audit is not None else {}
    certificates = {name: c for name, c in found.items() if c is not None}
    trials = {arm.name: t for arm in arms if (t := arm.pool_trials()) is not None}
    if len(trials) < len(arms):
        return PoolResult(pairs, {}, (), certificates) if certificates else None
    comparisons: tuple[Comparison, ...] = ()
    if len(arms) > 1:
        one, other = (trials[arm.name] for arm in arms)
        curves = resample(one, other, resamples, rng)
        comparisons = tuple(compare_at(curves, target) for target in TARGETS)
    return PoolResult(pairs, {name: t.curves for name, t in trials.items()}, comparisons, certificates)
