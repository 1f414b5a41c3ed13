"""The result in words: numbers as text, and the sentence that says what came out."""

from __future__ import annotations

import math

from bgpm.evaluation.result import Result, verdict
from bgpm.evaluation.savings import INDICATIVE_BELOW

MINUS = "\N{MINUS SIGN}"
NOT_REACHED = "not reached"
NOT_MEASURED = "Not measured: no held-out pair has a label, so nothing is known of unseen prompts."


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


def sentence(result: Result) -> str:
    """The result in one sentence of plain text, with what the data do not show."""
    arm, seeds, budget = result.arm.title, len(result.arm.seeds), count(result.arm.labels[-1])
    over = f"{seeds} seeds" if seeds > 1 else "one seed"
    c, kind = result.headline, verdict(result)
    if kind == "not_measured":
        return NOT_MEASURED
    if c is None or result.baseline is None:
        final = percent(float(result.arm.trials.curves[:, -1].mean()), 1)
        return (
            f"Only {arm} was run: it ends at {final} held-out accuracy with {budget} labels (mean over {over}), and "
            "without a baseline there is no saving to state."
        )
    base = result.baseline.title
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


def stands_words(result: Result) -> list[str]:
    """What `auto` stands for, a sentence for each arm that is called so."""
    return [
        f"{arm.name} stands for {arm.stands}, as the goal ({result.goal}) has it." for arm in result.arms if arm.stands
    ]


def caveats(result: Result) -> list[str]:
    """What a reader must know beside the headline, each one sentence."""
    c, out = result.headline, stands_words(result)
    if c is None or result.baseline is None:
        return out
    base, seeds = result.baseline.title, len(result.arm.seeds)
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
