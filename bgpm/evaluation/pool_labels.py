"""The labels of a whole pool, acquired or inferred, and how many of them are right.

The final label of an acquired pair is the label that was given, or the posterior's where annotators err; any other
pair's is the sign of its score. ``right`` is the share of the pool's pairs whose final label is right. Pairs whose true
label is a tie, or is not known, are left out.

Rows are those of a learning curve (see `bgpm.evaluation.curve`) with the split ``pool``::

    right, pairs                    share of right labels, and over how many pairs
    inferred_right, inferred_ece    of the inferred ones alone, and the calibration error of their probabilities
    export_P_share, _right, _stated of the labels with probability P or more: share of the pairs, share right, and the
                                    mean probability that they state
    expected                        share of right labels that the model expects, acquired ones taken for right
    audit_pool, _given, _inferred, _audited, _wrong
                                    what a bound needs (see `bgpm.evaluation.audit`): N, acquired pairs whose label is
                                    right by the annotators, M, n and x; ties and abstentions are wrong

Where annotators err with a known rate e, the posterior of an acquired pair takes its label out of the fit and puts
it back as evidence: with mean m, variance v and the label's own gradient g and Fisher information c at m, each times
the label's weight in the fit, the model without the label has variance v / (1 - c v) and mean m - g v / (1 - c v) (the
leave-one-out identity of Laplace's approximation), and n annotators of whom a share y prefers the first response add
n (2 y - 1) log((1 - e) / e) to its log-odds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bgpm import functional as F
from bgpm.errors import ShapeError
from bgpm.evaluation.accuracy import correct
from bgpm.evaluation.audit import ACQUIRED, AUDIT, INFERRED, expected_right, sample
from bgpm.evaluation.curve import CurveRow, probabilities
from bgpm.types import ScoreMoments

EXPORTS = (0.8, 0.9, 0.95)  # least probabilities of an export that is measured
_MOST_INFORMATION = 0.95  # of c v, which is below 1 for a label that was fitted


@dataclass(frozen=True)
class PoolLabels:
    """The final label of every pair of a pool.

    Attributes:
        pair: int64 [N], rows of the pool's table.
        label: float64 [N], 1 where the first response is better, 0 where the second, 0.5 for a tie.
        probability: float64 [N], P(a better).
        sd: float64 [N], standard deviation of the score, before division by the temperature.
        source: str [N], ``acquired``, ``inferred`` or ``audit`` (inferred, and its label is known from an audit).
        audit: float64 [N], what the audit of a pair said, NaN where there was none or nobody could say. Label and
            probability stay the model's there: these are what was checked.
    """

    pair: np.ndarray
    label: np.ndarray
    probability: np.ndarray
    sd: np.ndarray
    source: np.ndarray
    audit: np.ndarray

    @property
    def inferred(self) -> np.ndarray:
        """Where the model says the label, bool [N]."""
        return self.source != ACQUIRED

    @property
    def expected(self) -> float:
        """Share of right labels that the model expects, acquired ones taken for right."""
        return expected_right(self.probability[self.inferred], len(self.pair))

    @property
    def stated(self) -> np.ndarray:
        """Probability that the final label is right, [N] in [0.5, 1] where label and probability agree."""
        return np.where(self.label > 0.5, self.probability, np.where(self.label < 0.5, 1 - self.probability, 0.5))


def pool_labels(
    pair: np.ndarray,
    moments: ScoreMoments,
    acquired: Mapping[str, np.ndarray],
    audits: Mapping[str, np.ndarray] | None = None,
) -> PoolLabels:
    """Final labels from a model's moments and the labels it was trained on.

    Args:
        pair: int64 [N], rows of the pool's table, sorted, each once.
        moments: Of the scores of these pairs.
        acquired: Columns pair and label (NaN: everybody abstained, so the model infers it), annotators where several
            may have been asked, and weight where labels had one in the fit.
        audits: Columns pair and label of audited pairs, none of them acquired; none by default.

    Raises:
        ShapeError: If an acquired or audited pair is not one of ``pair``, or there is not one score a pair.
    """
    if len(moments.mean) != len(pair):
        raise ShapeError(f"expected the score of each of {len(pair)} pairs, got {len(moments.mean)}")
    told = ~np.isnan(acquired["label"])
    rows, given = acquired["pair"][told], acquired["label"][told].astype(np.float64)
    at = _places(pair, rows, "an acquired")
    probability = probabilities(moments)
    label = (np.sign(moments.mean.numpy()) + 1) / 2
    source = np.full(len(pair), INFERRED, dtype=object)
    source[at] = ACQUIRED
    if moments.error_rate > 0:
        votes = acquired["annotators"][told] if "annotators" in acquired else np.ones(len(rows))
        weight = acquired["weight"][told] if "weight" in acquired else np.ones(len(rows))
        own = replace(moments, mean=moments.mean[at], variance=moments.variance[at])
        probability[at] = posterior_of_acquired(own, given, votes, weight)
        label[at] = (np.sign(probability[at] - 0.5) + 1) / 2
    else:
        probability[at] = given
        label[at] = (np.sign(given - 0.5) + 1) / 2
    audited = np.full(len(pair), np.nan)
    if audits is not None:
        checked = _places(pair, audits["pair"], "an audited")
        source[checked], audited[checked] = AUDIT, audits["label"]
    return PoolLabels(pair, label, probability, moments.variance.sqrt().numpy(), source, audited)


def _places(pair: np.ndarray, rows: np.ndarray, what: str) -> np.ndarray:
    """Where rows stand among the pool's pairs."""
    at = np.searchsorted(pair, rows)
    if (at >= len(pair)).any() or (pair[at] != rows).any():
        raise ShapeError(f"{what} pair is not in the pool: labels and pool are of different runs; run `dvc repro`")
    return at


def posterior_of_acquired(
    moments: ScoreMoments, label: np.ndarray, votes: np.ndarray, weight: np.ndarray | None = None
) -> np.ndarray:
    """P(a better) of pairs whose labels may be wrong, given model and label, [N]; see the head of this module.

    Approximate where the posterior is not Gaussian. A point estimate (variance 0) cannot take a label out of its fit:
    there it counts twice.

    Args:
        moments: Of a model that was trained on these labels; its error rate e is above 0.
        label: Share of the votes for the first response, in [0, 1].
        votes: Annotators behind each label, >= 1.
        weight: How often each label counted in the fit, >= 0; once by default.
    """
    import torch

    e = moments.error_rate
    before = left_out(moments, label, weight)
    logit = F.predictive_logit(*map(torch.from_numpy, before), moments.tau).numpy()
    return 1 / (1 + np.exp(-np.clip(logit + votes * (2 * label - 1) * np.log((1 - e) / e), -500, 500)))


def left_out(
    moments: ScoreMoments, label: np.ndarray, weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of labelled pairs' scores had each one's own label not been there, [N] each.

    Args:
        moments: Of a model that was trained on these labels.
        label: In [0, 1].
        weight: How often each label counted in the fit, >= 0; once by default.
    """
    e, tau = moments.error_rate, moments.tau
    mean, variance = moments.mean.numpy(), moments.variance.numpy()
    p = 1 / (1 + np.exp(-np.clip(mean / tau, -500, 500)))
    q = e + (1 - 2 * e) * p  # P(a label says first)
    slope = (1 - 2 * e) * p * (1 - p) / tau
    by_vote = slope / (q * (1 - q)) if e > 0 else np.full_like(p, 1 / tau)  # the limit, where p rounds to 0 or 1 too
    if weight is not None:
        by_vote = weight * by_vote
    gradient, information = (label - q) * by_vote, slope * by_vote
    without = variance / (1 - np.minimum(information * variance, _MOST_INFORMATION))
    return mean - without * gradient, without


def pool_rows(labels: PoolLabels, truth: np.ndarray) -> Iterator[CurveRow]:
    """What final labels are worth; nothing where no pair has a true winner.

    Args:
        truth: Probability that response_a is better, [N], by the record, noise-free where noise is simulated;
            NaN where it is not known.
    """
    import torch

    right = correct(labels.label - 0.5, np.where(np.isnan(truth), 0.5, truth), tie=0.5)
    decided = ~np.isnan(right)
    if not decided.any():
        return
    yield "pool", "all", "right", float(right[decided].mean())
    yield "pool", "all", "pairs", float(decided.sum())
    some = decided & labels.inferred
    if some.any():
        yield "pool", "all", "inferred_right", float(right[some].mean())
        p, y = (torch.from_numpy(values[some]) for values in (labels.probability, (truth > 0.5).astype(np.float64)))
        yield "pool", "all", "inferred_ece", float(F.expected_calibration_error(p, y))
    stated = labels.stated
    for least in EXPORTS:
        out = decided & (stated >= least)
        yield "pool", "all", f"export_{least}_share", float(out.sum() / decided.sum())
        if out.any():
            yield "pool", "all", f"export_{least}_right", float(right[out].mean())
            yield "pool", "all", f"export_{least}_stated", float(stated[out].mean())


def audit_rows(labels: PoolLabels, truth: np.ndarray, priority: np.ndarray, size: int) -> Iterator[CurveRow]:
    """What audits would find if their auditors said what the record says; nothing where a pair has no recorded label.

    Args:
        truth: As `pool_rows`.
        priority: [N], of `bgpm.evaluation.audit.priorities`, the same in every round.
        size: Audits that are made of the inferred pairs; 0 for none.
    """
    if np.isnan(truth).any():
        return
    audited = np.zeros(len(truth), bool)
    audited[sample(priority, labels.inferred, size)] = True
    yield from _audited(labels, truth, labels.inferred, audited)


def audited_rows(labels: PoolLabels, acquired: Mapping[str, np.ndarray]) -> Iterator[CurveRow]:
    """What the audits that were made found.

    Args:
        acquired: As `pool_labels`. A pair on which everybody abstained is neither right nor one of the inferred pairs
            that an audit may be drawn from.
    """
    asked = np.isin(labels.pair, acquired["pair"])
    audited = labels.source == AUDIT
    said = np.full(len(labels.pair), np.nan)
    said[np.searchsorted(labels.pair, acquired["pair"])] = acquired["label"]
    said[audited] = labels.audit[audited]
    yield from _audited(labels, np.where(np.isnan(said), 0.5, said), ~asked, audited)


def _audited(labels: PoolLabels, said: np.ndarray, inferred: np.ndarray, audited: np.ndarray) -> Iterator[CurveRow]:
    """The counts behind a bound; what nobody said is 0.5 in ``said``."""
    right = correct(labels.label - 0.5, said, tie=0.0) == 1  # neither a tie nor a tied score is right
    yield "pool", "all", "expected", labels.expected
    yield "pool", "all", "audit_pool", float(len(right))
    yield "pool", "all", "audit_given", float((right & ~inferred).sum())
    yield "pool", "all", "audit_inferred", float(inferred.sum())
    yield "pool", "all", "audit_audited", float(audited.sum())
    yield "pool", "all", "audit_wrong", float((~right[audited]).sum())
