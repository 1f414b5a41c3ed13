"""Reliability, accuracy against coverage, and best of n, as tidy rows of figures.

Rows are (figure, series, x, y, pairs or prompts):

* ``reliability``: by bin of confidence, mean confidence (x) and share of right predictions (y);
* ``coverage``: accuracy (y) on the share (x) of pairs with the least uncertainty, for two kinds of it;
* ``best_of_n``: true win rate (y) of the response that is picked out of n (x), see `best_of_n`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from bgpm.errors import ShapeError
from bgpm.types import Pairs

FigurePoint = tuple[str, str, float, float, int]
BINS = 10  # of confidence, from 0.5 to 1
COVERAGES = np.arange(1, 21) / 20


def reliability(probability: np.ndarray, label: np.ndarray, bins: int = BINS) -> Iterator[FigurePoint]:
    """Mean confidence and accuracy of the predicted winner in bins of equal width over [0.5, 1].

    The gaps of these points, weighted by pairs, are `bgpm.functional.expected_calibration_error`.

    Args:
        probability: P(a better), [N].
        label: 0, 1 or soft, [N].
    """
    confidence = np.maximum(probability, 1 - probability)
    hit = np.where(probability > 0.5, label, np.where(probability < 0.5, 1 - label, 0.5))
    at = np.minimum(((confidence - 0.5) * (2 * bins)).astype(int), bins - 1)
    for number in np.unique(at).tolist():
        here = at == number
        name = f"{0.5 + number / (2 * bins):.2f} to {0.5 + (number + 1) / (2 * bins):.2f}"
        yield "reliability", name, float(confidence[here].mean()), float(hit[here].mean()), int(here.sum())


def selective_risk(uncertainty: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Share of wrong predictions among the n least uncertain pairs, for n = 1 to N, [N].

    Pairs of equal uncertainty are in random order; what is given is the mean over orders.
    """
    if len(uncertainty) != len(wrong) or not len(wrong):
        raise ShapeError(
            f"expected as many uncertainties as predictions, one or more, got {len(uncertainty)} and {len(wrong)}"
        )
    order = np.argsort(uncertainty, kind="stable")
    _, at = np.unique(uncertainty[order], return_inverse=True)
    level = np.bincount(at, wrong[order]) / np.bincount(at)
    return np.cumsum(level[at]) / np.arange(1, len(wrong) + 1)


def error_auroc(uncertainty: np.ndarray, wrong: np.ndarray) -> float:
    """Probability that a wrong prediction is more uncertain than a right one: 0.5 says nothing; NaN with one kind only.

    A prediction that is half wrong (a tied score) counts half as each kind, which scikit-learn's `roc_auc_score` takes
    only as two pairs with weights.
    """
    _, at = np.unique(uncertainty, return_inverse=True)
    bad, good = np.bincount(at, wrong), np.bincount(at, 1 - wrong)
    if bad.sum() == 0 or good.sum() == 0:
        return math.nan
    below = np.cumsum(good) - good
    return float((bad * (below + good / 2)).sum() / (bad.sum() * good.sum()))


def coverage(uncertainties: Mapping[str, np.ndarray], right: np.ndarray) -> Iterator[FigurePoint]:
    """Accuracy at each coverage for each kind of uncertainty; a coverage of less than one pair is left out."""
    for name, uncertainty in uncertainties.items():
        risk = selective_risk(uncertainty, 1 - right)
        for share in COVERAGES.tolist():
            n = round(share * len(right))
            if n:
                yield "coverage", name, share, 1 - float(risk[n - 1]), n


def selective_metrics(uncertainties: Mapping[str, np.ndarray], right: np.ndarray) -> dict[str, float]:
    """For each kind of uncertainty: area under the risk-coverage curve (lower is better; without knowledge the error
    rate, which `accuracy` gives) and AUROC of errors."""
    found: dict[str, float] = {}
    for name, uncertainty in uncertainties.items():
        found[f"aurc_{name}"] = float(selective_risk(uncertainty, 1 - right).mean())
        found[f"error_auroc_{name}"] = error_auroc(uncertainty, 1 - right)
    return found


def best_of_n(pairs: Pairs, label: np.ndarray, probability: np.ndarray) -> list[FigurePoint]:
    """True win rate of the response picked out of n, as n grows.

    Of each prompt, the largest set of responses that have all been compared with each other counts, if it has three or
    more. A response's true win rate is its mean label against the others of the set; the pick out of a random n of them
    is the one with the highest mean predicted probability against all others (``oracle``: with the highest true rate).
    The mean over all subsets of n is exact: of K responses in order, the r-th from below is the best of n in
    C(r - 1, n - 1) of C(K, n) subsets. Every point is a mean over the same prompts, those with at least N responses,
    where N >= 3 is as large as half of the prompts allow.
    n = 1 is a random response, 0.5 by definition.

    Args:
        pairs: [N], each unordered pair at most once.
        label, probability: Probability that response_a is better, true and predicted, [N].

    Returns:
        Points of the series ``model`` and ``oracle``; none where no prompt has three such responses.
    """
    found = []
    order = np.argsort(pairs.prompt, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(pairs.prompt[order])) + 1) if len(order) else []:
        chosen = _compared(pairs.response_a[rows].tolist(), pairs.response_b[rows].tolist())
        k = len(chosen)
        if k < 3:
            continue
        rows = rows[np.isin(pairs.response_a[rows], chosen) & np.isin(pairs.response_b[rows], chosen)]
        i, j = np.searchsorted(chosen, pairs.response_a[rows]), np.searchsorted(chosen, pairs.response_b[rows])
        rates = [
            (np.bincount(i, value[rows], k) + np.bincount(j, 1 - value[rows], k)) / (k - 1)
            for value in (label, probability)
        ]
        found.append((k, *rates))
    if not found:
        return []
    most = int(np.sort([k for k, *_ in found])[len(found) // 2])
    used = [item for item in found if item[0] >= most]
    points: list[FigurePoint] = []
    for name in ("model", "oracle"):
        picks = np.array([_expected_best(true, guess if name == "model" else true, most) for _, true, guess in used])
        points += [("best_of_n", name, float(n), float(y), len(used)) for n, y in enumerate(picks.mean(0), 1)]
    return points


def _compared(response_a: list[int], response_b: list[int]) -> list[int]:
    """The largest set of responses that were all compared with each other, sorted; of equals the first in order."""
    import networkx as nx  # 0.2 s, which nothing else is to wait for

    sets = map(sorted, nx.find_cliques(nx.Graph(zip(response_a, response_b, strict=True))))
    return min(sets, key=lambda chosen: (-len(chosen), chosen))


def _expected_best(true: np.ndarray, guess: np.ndarray, most: int) -> np.ndarray:
    """Mean true rate of the response with the highest guess in random subsets of 1 to ``most``; ties at random."""
    order = np.argsort(guess, kind="stable")
    _, at = np.unique(guess[order], return_inverse=True)
    level = (np.bincount(at, true[order]) / np.bincount(at))[at]
    k = len(true)
    share = [[math.comb(r, n - 1) / math.comb(k, n) for r in range(k)] for n in range(1, most + 1)]
    return np.array(share) @ level
