"""A lower bound of how many labels of a pool are right, from audits, where nobody knows the truth.

Every pair gets a random priority once. In each round the model is frozen; the acquisition chooses from all pairs that
are not acquired, audited ones included, and never sees what audits said; then the pairs of the highest priority among
those that are left are audited. Audit labels train nothing and choose no setting until acquisition stops. So the
audited pairs are, at every look, a uniform sample without replacement of exactly the pairs whose labels the current
model infers, and the number of wrong labels among them is hypergeometric.

The bound of look t inverts that distribution at a level alpha_t; the levels of all looks together stay at or below
alpha (alpha / looks where their number is planned, alpha / (t (t + 1)) where it is not), so that the chance that any
bound of a campaign is above the truth is at most alpha. What is right is what the annotator, or the panel, who audits
would say; ties and abstentions count as wrong. What is exported is what was audited: the model of the look, without
the audits. On prompts without any label these audits say nothing.

Not sound, though each looks so: an exact interval at the full level after every round; audits of earlier models pooled
with today's; audits that are drawn before the acquisition chooses. `benchmarks.audit` simulates them side by side.

Legend: N pairs of the pool, M of them inferred, n audited, x audited and wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from bgpm.errors import ArgumentError, ShapeError
from bgpm.keys import uniform_by_key

ACQUIRED, INFERRED, AUDIT = "acquired", "inferred", "audit"  # sources of a label of the pool
_SLACK = 1e-9  # of the level: a number of wrong labels at the edge counts as possible, whatever rounding says


def priorities(keys: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Uniform numbers in [0, 1), [N], that follow the pairs' keys: the lowest is audited first."""
    return uniform_by_key(keys, generator)


def sample(priority: np.ndarray, inferred: np.ndarray, size: int) -> np.ndarray:
    """Rows to be audited: the ``size`` inferred pairs of the lowest priority numbers, in that order; all where fewer.

    Pairs audited before and not acquired since are always among them: the audit set is only topped up.

    Args:
        priority: [N], of `priorities`.
        inferred: bool [N], the pairs that were not acquired.
    """
    rows = np.flatnonzero(inferred)
    return rows[np.argsort(priority[rows], kind="stable")][:size]


def expected_right(probability: np.ndarray, pool: int) -> float:
    """Share of a pool's labels that a model expects to be right, those that were acquired taken for right.

    Args:
        probability: That the first response is better, of each inferred pair, [M].
        pool: N.
    """
    return float((pool - len(probability) + np.maximum(probability, 1 - probability).sum()) / pool)


def level(alpha: float, look: int, looks: int | None = None) -> float:
    """The share of alpha that look number ``look`` (from 1) may use.

    Args:
        alpha: Chance that any look errs, in (0, 1).
        looks: How many there will be at most, planned before the first; None where it is open.

    Raises:
        ArgumentError: If alpha is not in (0, 1), or there are more looks than planned.
    """
    if not 0 < alpha < 1:
        raise ArgumentError(f"audit: expected a chance of error in (0, 1), got {alpha}; 0.05 is usual")
    if look < 1 or (looks is not None and look > looks):
        raise ArgumentError(
            f"audit: look {look} of {looks} planned: every look has its share of the error; plan more rounds"
        )
    return alpha / looks if looks is not None else alpha / (look * (look + 1))


def at_most(wrong: np.ndarray, total: np.ndarray, bad: np.ndarray, audited: np.ndarray) -> np.ndarray:
    """P(X <= x) where X of n audited pairs are wrong when ``bad`` of ``total`` are, [...] from integers that broadcast.

    Sums of exact terms by log-gamma; the error is about 1e-12 of the number of terms.
    """
    wrong, total, bad, audited = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (wrong, total, bad, audited)))
    whole = _choose(total, audited)
    out = np.zeros(total.shape)
    for i in range(int(wrong.max(initial=-1)) + 1):
        here = (i <= wrong) & (i <= np.minimum(bad, audited)) & (audited - i <= total - bad)
        k, n, good = (np.where(here, v, 0.0) for v in (bad, audited, total - bad))
        chosen = np.where(here, float(i), 0.0)
        out += np.where(here, np.exp(_choose(k, chosen) + _choose(good, n - chosen) - whole), 0.0)
    return np.minimum(out, 1.0)


def _choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    from scipy.special import gammaln

    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def most_wrong(wrong: ArrayLike, total: ArrayLike, audited: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    """The largest number of wrong labels among ``total`` that x of n audits do not exclude at level alpha, int64 [...].

    Raises:
        ShapeError: If more are wrong than were audited, or more audited than there are.
    """
    wrong, total, audited = np.broadcast_arrays(*(np.asarray(v, np.int64) for v in (wrong, total, audited)))
    if (wrong < 0).any() or (wrong > audited).any() or (audited > total).any():
        raise ShapeError(
            "audit: expected 0 <= wrong <= audited <= inferred pairs; audits belong to inferred pairs only"
        )
    low, high = wrong.copy(), total - (audited - wrong)  # possible at least, and at most
    while (low < high).any():
        middle = (low + high + 1) // 2
        possible = at_most(wrong, total, middle, audited) > np.asarray(alpha) * (1 - _SLACK)
        low, high = np.where(possible, middle, low), np.where(possible, high, middle - 1)
    return low


def right_share(
    right: ArrayLike, inferred: ArrayLike, audited: ArrayLike, wrong: ArrayLike, pool: ArrayLike, alpha: ArrayLike
) -> np.ndarray:
    """Lower bound of the share of a pool's labels that are right, [...], at level alpha of one look.

    Args:
        right: Acquired pairs that have a label: right by definition. Ties and abstentions are not among them.
        inferred: M, pairs whose labels the model infers.
        audited, wrong: n and x.
        pool: N, pairs of the pool; those neither right nor inferred count as wrong.

    Raises:
        ShapeError: As `most_wrong`.
    """
    return (np.asarray(right) + np.asarray(inferred) - most_wrong(wrong, inferred, audited, alpha)) / np.asarray(pool)


def audits_missing(
    right: int, inferred: int, audited: int, wrong: int, pool: int, *, target: float, alpha: float
) -> tuple[int | None, int | None]:
    """How many more audits would certify a target at level alpha: at least (no more errors), and at today's error rate.

    Args:
        right, inferred, audited, wrong, pool: As `right_share`.
        target: Share of right labels that is asked for.

    Returns:
        Two numbers of audits beside those made; 0 where the target is certified; None where no number of audits would
        do (the first: the errors found are too many already).
    """

    def certified(n: int, x: int) -> bool:
        return float(right_share(right, inferred, n, x, pool, alpha)) >= target

    if certified(audited, wrong):
        return 0, 0
    if not certified(inferred, wrong):
        return None, None
    least = _first(lambda n: certified(n, wrong), audited + 1, inferred) - audited
    if not wrong:
        return least, least
    rate = wrong / audited

    def errors(n: int) -> int:
        return math.ceil(rate * n - 1e-9)

    if not certified(inferred, errors(inferred)):
        return least, None
    # The bound is best just before the next error is due: find the first such place that certifies, then go back.
    last = errors(inferred)
    count = _first(lambda x: certified(min(int(x / rate + 1e-9), inferred), x), wrong, last)
    end = min(int(count / rate + 1e-9), inferred)
    return least, _first(lambda n: certified(n, count), max(audited + 1, count), end) - audited


def smallest(pool: int, acquired: int, target: float, alpha: float) -> int:
    """The fewest audits that could ever certify a target: no error among them, and every acquired label right.

    Args:
        pool: N.
        acquired: Pairs that will be acquired by the last look.
        target: Share of right labels that is asked for, below 1.
        alpha: The level of that look.
    """
    inferred = pool - acquired
    if float(right_share(acquired, inferred, 0, 0, pool, alpha)) >= target:
        return 0
    return _first(lambda n: float(right_share(acquired, inferred, n, 0, pool, alpha)) >= target, 1, inferred)


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The first whole number from low on for which a statement holds that holds at ``high`` and stays true."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
