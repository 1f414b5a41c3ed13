"""The result in one object: what was compared, what came out, and the sentence that says it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bgpm.errors import StateError
from bgpm.reporting import ReportSettings
from bgpm.reporting.inputs import Arm
from bgpm.reporting.savings import (
    INDICATIVE_BELOW,
    Comparison,
    Difference,
    aulc_difference,
    baseline_gain,
    compare,
    resample,
    saturated,
)

SHARES = (0.5, 0.75, 0.9, 1.0)
MINUS = "\N{MINUS SIGN}"
NOT_REACHED = "not reached"


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
    """

    arm: Arm
    baseline: Arm | None
    target: float
    comparisons: tuple[Comparison, ...]
    area: Difference | None
    gain: Difference | None
    learned: bool
    saturated: bool

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
        """Whether there are too few seeds for the interval to keep its promise."""
        return len(self.arm.seeds) < INDICATIVE_BELOW


def study(arm: Arm, baseline: Arm | None, settings: ReportSettings, rng: np.random.Generator) -> Result:
    """Compare two arms, or describe one.

    Raises:
        StateError: If the arms were not run over the same seeds, rounds and held-out prompts.
    """
    if baseline is None:
        return Result(arm, None, settings.target, (), None, None, True, False)
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
    curves = resample(arm.trials, baseline.trials, settings.resamples, rng)
    shares = sorted({*SHARES, settings.target})
    at_80 = baseline_gain(curves, 0.8)
    return Result(
        arm,
        baseline,
        settings.target,
        tuple(compare(curves, share) for share in shares),
        aulc_difference(curves),
        baseline_gain(curves),
        (at_80.value if at_80.interval is None else at_80.interval.low) > 0,
        saturated(curves.labels, curves.baseline),
    )


def percent(value: float, digits: int = 0) -> str:
    """A share as text: ``41%``, ``−30%``, or ``not reached`` for -inf."""
    if math.isinf(value):
        return NOT_REACHED
    text = f"{abs(100 * value):.{digits}f}%"
    return MINUS + text if value < 0 and float(text[:-1]) > 0 else text


def count(labels: float) -> str:
    """A number of labels as text."""
    return f"{labels:,.0f}" if math.isfinite(labels) else NOT_REACHED


def ends(low: float, high: float, digits: int = 0) -> str:
    """A range as text: ``12% to 58%``, ``not reached to 18%``, or ``not reached`` where it has no other part."""
    return NOT_REACHED if math.isinf(high) else f"{percent(low, digits)} to {percent(high, digits)}"


def points(value: float) -> str:
    """A difference of accuracies as text, in percentage points with its sign."""
    return f"{100 * value:+.1f}".replace("-", MINUS)


def share_words(share: float) -> str:
    """A share of the gain as text, with a decimal only where there is one."""
    return percent(share, 0 if round(100 * share, 6) % 1 == 0 else 1)


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


def sentence(result: Result) -> str:
    """The answer in one sentence of plain text, with what the data do not show."""
    arm, seeds, budget = result.arm.name, len(result.arm.seeds), count(result.arm.labels[-1])
    over = f"{seeds} seeds" if seeds > 1 else "one seed"
    c, kind = result.headline, verdict(result)
    if c is None or result.baseline is None:
        final = percent(float(result.arm.trials.curves[:, -1].mean()), 1)
        return (
            f"Only {arm} was run: it ends at {final} held-out accuracy with {budget} labels (mean over {over}), and "
            "without a baseline there is no saving to state."
        )
    base = result.baseline.name
    if kind == "no_gain":
        gained = points(result.gain.value) if result.gain else "nothing"
        within = result.gain.interval if result.gain else None
        about = f" (95% interval {points(within.low)} to {points(within.high)})" if within else ""
        return (
            f"From its first to its last labels {base} gains {gained} points of held-out accuracy{about}, which may be "
            "nothing, so there is no target outside the noise and no saving to state."
        )
    asked = f"{percent(c.target, 1)} held-out accuracy ({share_words(c.share)} of what {base} gains)"
    if kind == "not_reached":
        return (
            f"With {budget} labels, {arm} did not reach {asked}, for which {base} needed {count(c.labels_baseline)}: "
            "no saving is shown."
        )
    needed = f"{count(c.labels_arm)} labels where {base} needed {count(c.labels_baseline)}"
    amount = f"{percent(abs(c.saving))} {'fewer' if c.saving >= 0 else 'more'}"
    if c.interval is None:
        return (
            f"To reach {asked}, {arm} needed {needed}, {amount}; this is a single seed, so there is no interval and "
            "no claim."
        )
    within = ends(c.interval.low, c.interval.high)
    if kind == "undecided":
        return (
            f"To reach {asked}, {arm} needed {needed}, {amount}; but the 95% interval of the saving ({within}) does "
            f"not exclude zero, so these {over} do not show a difference."
        )
    return f"To reach {asked}, {arm} needed {needed}: {amount} (95% interval of the saving {within})."


def caveats(result: Result) -> list[str]:
    """What a reader must know beside the headline, each one sentence."""
    c = result.headline
    if c is None or result.baseline is None:
        return []
    base, seeds, out = result.baseline.name, len(result.arm.seeds), []
    if c.null is not None:
        out.append(
            f"Null control: the same estimate for {base} against itself, with other draws of its seeds, has a median "
            f"of {percent(c.null.median)} and a 95% range of {ends(c.null.low, c.null.high)}."
        )
    if result.indicative:
        out.append(
            f"Indicative only: {seeds} paired seed{'s' if seeds > 1 else ''}; bootstrap intervals keep their 95% from "
            f"about {INDICATIVE_BELOW} seeds on."
        )
    gain = result.gain.interval if result.gain else None
    if result.gain and gain and gain.low <= 0 and result.learned:
        out.append(
            f"What {base} itself gains, {points(result.gain.value)} points of accuracy (95% interval "
            f"{points(gain.low)} to {points(gain.high)}), is uncertain, and every target with it."
        )
    if result.saturated:
        out.append(
            f"Saturated: {base} stops climbing before its last labels, so the higher targets are read off a flat curve."
        )
    if c.interval is not None and c.interval.reason:
        out.append(f"The interval is a percentile interval, not BCa: {c.interval.reason}.")
    return out
