"""One point of a learning curve: a model's moments against labels, in tidy rows.

Rows are (split, section, metric, value). Splits are ``heldout`` and ``benchmark``; section ``all`` is the
split as a whole. For held-out pairs ``all`` is the mean over pairs; for the benchmark it is its overall
score, by its own rule (`bgpm.evaluation.benchmark`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bgpm import functional as F
from bgpm.evaluation.accuracy import by_name, correct
from bgpm.evaluation.benchmark import BenchmarkScore
from bgpm.evaluation.cyclic import Triples, triples_right
from bgpm.evaluation.figures import FigurePoint, best_of_n, coverage, reliability, selective_metrics
from bgpm.types import Pairs, ScoreMoments

CurveRow = tuple[str, str, str, float]


def probabilities(moments: ScoreMoments) -> np.ndarray:
    """P(a better), averaged over the posterior, [N]."""
    return F.expected_probability(moments.mean, moments.variance, moments.tau).numpy()


def mean_nll(moments: ScoreMoments, label: np.ndarray) -> float:
    """Mean negative log-likelihood of the labels, nats; from logits, so that a rounded 1 may be wrong."""
    import torch

    logit = F.predictive_logit(moments.mean, moments.variance, moments.tau)
    return float(F.pairwise_loss(logit, torch.from_numpy(label), tau=1.0).mean())


def uncertainties(moments: ScoreMoments) -> dict[str, np.ndarray]:
    """How unsure a model is of each pair, [N]: entropy of the prediction (nats), and the score's standard deviation."""
    entropy = F.predictive_entropy(moments.mean, moments.variance, moments.tau).numpy()
    return {"entropy": entropy, "sd": moments.variance.sqrt().numpy()}


def heldout_rows(moments: ScoreMoments, label: np.ndarray, section: np.ndarray) -> Iterator[CurveRow]:
    """Accuracy, negative log-likelihood (nats), Brier score, ECE and what uncertainty says of errors on held-out pairs.

    Then accuracy by section.
    """
    import torch

    right = correct(moments.mean.numpy(), label, tie=0.5)
    p, y = torch.from_numpy(probabilities(moments)), torch.from_numpy(label)
    yield "heldout", "all", "accuracy", float(np.nanmean(right))
    yield "heldout", "all", "nll", mean_nll(moments, label)
    yield "heldout", "all", "brier", float(F.brier(p, y))
    yield "heldout", "all", "ece", float(F.expected_calibration_error(p, y))
    of_winner = np.where(label > 0.5, p, 1 - p)[label != 0.5]
    yield "heldout", "all", "mean_probability_of_winner", float(np.nanmean(of_winner))
    decided = label != 0.5
    unsure = {name: value[decided] for name, value in uncertainties(moments).items()}
    for name, value in selective_metrics(unsure, right[decided]).items():
        yield "heldout", "all", name, value
    for name, value in by_name(right, section).items():
        yield "heldout", name, "accuracy", value


def triple_rows(moments: ScoreMoments, triples: Triples, label: np.ndarray) -> Iterator[CurveRow]:
    """How many held-out triples are cyclic, and the share that is ordered rightly of those and of the others.

    Noise makes cycles too: where labels are single votes, most are nobody's preference.
    """
    right = triples_right(moments.mean.numpy(), label, triples)
    for name, here in (("cyclic", triples.cyclic), ("transitive", ~triples.cyclic)):
        if here.any():
            yield "heldout", "all", f"{name}_triples", float(here.sum())
            yield "heldout", "all", f"{name}_triples_right", float(right[here].mean())


def heldout_figures(moments: ScoreMoments, pairs: Pairs, label: np.ndarray) -> Iterator[FigurePoint]:
    """Points of `bgpm.evaluation.figures` on held-out pairs."""
    p, decided = probabilities(moments), label != 0.5
    yield from reliability(p, label)
    right = correct(moments.mean.numpy(), label, tie=0.5)[decided]
    yield from coverage({name: value[decided] for name, value in uncertainties(moments).items()}, right)
    yield from best_of_n(pairs, label, p)


def benchmark_rows(moments: ScoreMoments, label: np.ndarray, score: BenchmarkScore) -> Iterator[CurveRow]:
    """Score by subset, section and overall, and likelihood over the pairs that have a better response.

    ``missing_subsets`` says how many published subsets a section lacks: it is partial if any.
    """
    import torch

    decided = torch.from_numpy(label != 0.5)
    known = ScoreMoments(moments.mean[decided], moments.variance[decided], moments.tau)
    label = label[label != 0.5]
    yield "benchmark", "all", "accuracy", score.total
    yield "benchmark", "all", "nll", mean_nll(known, label)
    p, y = torch.from_numpy(probabilities(known)), torch.from_numpy(label)
    yield "benchmark", "all", "ece", float(F.expected_calibration_error(p, y))
    for name, value in score.sections.items():
        yield "benchmark", name, "accuracy", value
    for name, count in score.missing.items():
        yield "benchmark", name, "missing_subsets", float(count)
    for name, value in score.subsets.items():
        yield "benchmark", f"subset:{name}", "accuracy", value


def length_direction(gap: np.ndarray, label: np.ndarray) -> float:
    """1 where labels favour the longer response, -1 where the shorter; 1 when they favour neither.

    Args:
        gap: Words of the first response minus words of the second, [N].
        label: Of the same pairs; NaN and 0.5 say nothing.
    """
    return 1.0 if np.nansum(np.sign(gap) * np.sign(label - 0.5)) >= 0 else -1.0


def length_rule(known_gap: np.ndarray, known_label: np.ndarray, gap: np.ndarray, label: np.ndarray) -> float:
    """Accuracy of the one-bit rule "longer wins" or "shorter wins", whichever the known labels favour."""
    direction = length_direction(known_gap, known_label)
    return float(np.nanmean(correct(direction * gap, label, tie=0.5)))
