"""One point of a learning curve: a model's moments against labels, in tidy rows.

Rows are (split, section, metric, value). Splits are ``heldout`` and ``benchmark``; section ``all`` is the
split as a whole. For held-out pairs ``all`` is the mean over pairs; for the benchmark it is the mean of
its sections, by RewardBench's rules where the subsets are RewardBench's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from bgpm import functional as F
from bgpm.evaluation.rewardbench import SECTIONS, is_rewardbench, overall, section_scores
from bgpm.types import ScoreMoments

Row = tuple[str, str, str, float]


def correct(mean: np.ndarray, label: np.ndarray, *, tie: float) -> np.ndarray:
    """1 where the better answer scores higher, 0 where lower, ``tie`` where they are equal; NaN for tied labels."""
    sign = np.sign(mean) * np.sign(label - 0.5)
    return np.where(label == 0.5, np.nan, np.where(sign == 0, tie, sign > 0))


def probabilities(moments: ScoreMoments) -> np.ndarray:
    """P(first better), averaged over the posterior, [N]."""
    return F.expected_probability(moments.mean, moments.variance, moments.tau).numpy()


def mean_nll(moments: ScoreMoments, label: np.ndarray) -> float:
    """Mean negative log-likelihood of the labels, nats; from logits, so that a rounded 1 may be wrong."""
    logit = F.predictive_logit(moments.mean, moments.variance, moments.tau)
    return float(F.pairwise_loss(logit, torch.from_numpy(label), tau=1.0).mean())


def heldout_rows(moments: ScoreMoments, label: np.ndarray, section: np.ndarray) -> Iterator[Row]:
    """Accuracy, negative log-likelihood (nats), Brier score and ECE on held-out pairs, and accuracy by section."""
    right = correct(moments.mean.numpy(), label, tie=0.5)
    p, y = torch.from_numpy(probabilities(moments)), torch.from_numpy(label)
    yield "heldout", "all", "accuracy", float(np.nanmean(right))
    yield "heldout", "all", "nll", mean_nll(moments, label)
    yield "heldout", "all", "brier", float(F.brier(p, y))
    yield "heldout", "all", "ece", float(F.expected_calibration_error(p, y))
    of_winner = np.where(label > 0.5, p, 1 - p)[label != 0.5]
    yield "heldout", "all", "mean_probability_of_winner", float(np.nanmean(of_winner))
    for name in sorted(set(section) - {""}):
        here = right[section == name]
        if not np.isnan(here).all():
            yield "heldout", name, "accuracy", float(np.nanmean(here))


def benchmark_rows(
    moments: ScoreMoments, label: np.ndarray, section: np.ndarray, subset: np.ndarray, *, xstest: str
) -> Iterator[Row]:
    """Accuracy by subset, section and overall, and likelihood; a tie scores 0.

    Under RewardBench's rules ``missing_subsets`` says how many subsets a section lacks: it is partial if any.
    """
    right = correct(moments.mean.numpy(), label, tie=0.0)
    names = sorted(set(subset))
    by_subset = {name: float(right[subset == name].mean()) for name in names}
    missing: dict[str, int] = {}
    if is_rewardbench(names):
        scores = section_scores(by_subset, xstest)
        by_section: Mapping[str, float] = {name: s.score for name, s in scores.items()}
        missing = {name: len(SECTIONS[name].keys() - set(names)) for name in SECTIONS}
        total = overall(scores)
    else:
        by_section = {name: float(right[section == name].mean()) for name in sorted(set(section))}
        total = float(np.mean(list(by_section.values())))
    p, y = torch.from_numpy(probabilities(moments)), torch.from_numpy(label)
    yield "benchmark", "all", "accuracy", total
    yield "benchmark", "all", "nll", mean_nll(moments, label)
    yield "benchmark", "all", "ece", float(F.expected_calibration_error(p, y))
    for name, value in by_section.items():
        yield "benchmark", name, "accuracy", value
    for name, count in missing.items():
        yield "benchmark", name, "missing_subsets", float(count)
    for name, value in by_subset.items():
        yield "benchmark", f"subset:{name}", "accuracy", value


def length_rule(known_gap: np.ndarray, known_label: np.ndarray, gap: np.ndarray, label: np.ndarray) -> float:
    """Accuracy of the one-bit rule "longer wins" or "shorter wins", whichever the known labels favour.

    Args:
        known_gap, gap: Words of the first answer minus words of the second, of labelled and of held-out pairs.
        known_label, label: Their labels.
    """
    vote = np.nansum(np.sign(known_gap) * np.sign(known_label - 0.5))
    direction = 1.0 if vote >= 0 else -1.0
    return float(np.nanmean(correct(direction * gap, label, tie=0.5)))
