"""Agreement between annotators, and the error rate of each.

Cohen, "A coefficient of agreement for nominal scales", 1960; Fleiss, "Measuring nominal scale agreement among many
raters", 1971, here for any number of raters a pair; Dawid and Skene, "Maximum likelihood estimation of observer error
rates using the EM algorithm", 1979, with one error rate a person.

Legend: answers are ``{pair: {annotator: label}}`` with labels in {0, 0.5, 1}. Skipped pairs are not in it.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

LabelsByPair = Mapping[str, Mapping[str, float]]

START = 0.1  # where the search for error rates begins: below 1/2, since people mean to be right
STEPS = 5_000
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Agreement:
    """Agreement between raters.

    Attributes:
        pairs: Pairs that two or more people answered.
        raw: Share of pairs of answers that are equal, averaged over these pairs; NaN without any.
        kappa: How far that exceeds what chance gives: 1 is perfect, 0 is chance; NaN where it is not defined, which
            is so where everybody always says the same.
    """

    pairs: int
    raw: float
    kappa: float


def _kappa(raw: float, chance: float) -> float:
    return (raw - chance) / (1 - chance) if chance < 1 else math.nan


def cohen(annotations: LabelsByPair, one: str, other: str) -> Agreement:
    """Cohen's kappa of two people over the pairs that both answered; categories are A, tie and B."""
    both = [(said[one], said[other]) for said in annotations.values() if one in said and other in said]
    if not both:
        return Agreement(0, math.nan, math.nan)
    n = len(both)
    raw = sum(a == b for a, b in both) / n
    mine, yours = Counter(a for a, _ in both), Counter(b for _, b in both)
    return Agreement(n, raw, _kappa(raw, sum(mine[c] * yours[c] for c in mine) / n**2))


def fleiss(annotations: LabelsByPair) -> Agreement:
    """Fleiss' kappa over the pairs that two or more people answered; the number of people may differ by pair."""
    shared = [list(said.values()) for said in annotations.values() if len(said) > 1]
    if not shared:
        return Agreement(0, math.nan, math.nan)
    raw = statistics.fmean(statistics.fmean(a == b for a, b in itertools.combinations(said, 2)) for said in shared)
    counts = Counter(label for said in shared for label in said)
    total = sum(counts.values())
    return Agreement(len(shared), raw, _kappa(raw, sum((c / total) ** 2 for c in counts.values())))


def error_rates(annotations: LabelsByPair) -> dict[str, tuple[float, int]]:
    """Each person's error rate and the number of pairs it rests on, by maximum likelihood.

    The model: every pair has one better answer; person r names the other one with probability e_r, whichever it is
    and whatever the others say. The better answer is A or B with probability 1/2, since their order was shuffled.
    Ties say nothing under it and are left out. Two people tell the sum of their error rates only: they get equal
    ones. It takes disagreement for error, so real differences of taste count as noise.

    Returns:
        (rate, pairs that someone else answered too) for each person with at least one such pair.
    """
    decided = ({r: label for r, label in said.items() if label != 0.5} for said in annotations.values())
    shared = [said for said in decided if len(said) > 1]
    pairs = Counter(r for said in shared for r in said)
    alike = Counter(tuple(sorted(said.items())) for said in shared)  # pairs of which the same people said the same
    rate = dict.fromkeys(sorted(pairs), START)
    for _ in range(STEPS):
        wrong = dict.fromkeys(rate, 0.0)
        for said, count in alike.items():
            # Odds that A is better: (1 - e) / e for each who said A, e / (1 - e) for each who said B.
            a = math.prod(1 - rate[r] if label == 1 else rate[r] for r, label in said)
            b = math.prod(rate[r] if label == 1 else 1 - rate[r] for r, label in said)
            for r, label in said:
                wrong[r] += count * (b if label == 1 else a) / (a + b)
        new = {r: wrong[r] / pairs[r] for r in rate}
        done = max((abs(new[r] - rate[r]) for r in rate), default=0.0) < TOLERANCE
        rate = new
        if done:
            break
    return {r: (rate[r], pairs[r]) for r in rate}
