"""Calibration and proper scores of predicted probabilities.

Which response of a pair is first carries no information, so every measure is the same for a pair and its swap.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bgpm.errors import NumericsError, ShapeError
from bgpm.functional import _checks
from bgpm.functional.likelihood import check_labels


def brier(probability: Tensor, label: Tensor) -> Tensor:
    """Mean squared distance between probability and label, a scalar in [0, 1]; 0.25 for constant 0.5 on 0/1 labels.

    Args:
        probability: P(a better), in [0, 1], any shape.
        label: 0, 1 or a soft label, same shape.

    Raises:
        ShapeError: If shapes differ or there are no pairs.
        NumericsError: If a number is not finite or not in [0, 1].
    """
    _check("brier", probability, label)
    return (probability - label).square().mean()


def negative_log_likelihood(probability: Tensor, label: Tensor) -> Tensor:
    """Mean of -y log p - (1 - y) log(1 - p) in nats, a scalar; log 2 = 0.693 for constant 0.5.

    Args:
        probability: P(a better), in [0, 1], any shape.
        label: 0, 1 or a soft label, same shape.

    Raises:
        ShapeError: If shapes differ or there are no pairs.
        NumericsError: If a number is not finite or not in [0, 1], or if a probability of exactly 0 or 1 is
            contradicted by its label, which makes the mean infinite: a probability so close to 1 has been rounded.
            Start from logits then: ``pairwise_loss(predictive_logit(mean, var, tau), label, tau=1.0).mean()``.
    """
    _check("negative_log_likelihood", probability, label)
    loss = -torch.xlogy(label, probability) - torch.special.xlog1py(1 - label, -probability)
    bad = torch.isinf(loss)
    if bad.any():
        raise NumericsError(
            f"negative_log_likelihood: probability {probability[bad][0].item()} at {_checks.first_bad(bad)} is "
            f"contradicted by label {label[bad][0].item()}: the mean is infinite; "
            "expected probabilities inside (0, 1); "
            "use pairwise_loss(predictive_logit(mean, var, tau), label, tau=1.0).mean()"
        )
    return loss.mean()


def expected_calibration_error(probability: Tensor, label: Tensor, bins: int = 10) -> Tensor:
    """Calibration error (ECE) of the predicted winner, a scalar in [0, 1].

    Confidence is max(p, 1 - p); bins of equal width cover [0.5, 1]; the error is the mean over pairs of the
    distance between confidence and accuracy in the pair's bin (Guo et al., arXiv:1706.04599). At p = 0.5 there is
    no predicted winner and accuracy counts one half. Biased upwards for few pairs a bin.

    Args:
        probability: P(a better), in [0, 1], any shape.
        label: 0, 1 or a soft label, same shape.
        bins: How many, >= 1.

    Raises:
        ShapeError: If shapes differ, there are no pairs, or bins < 1.
        NumericsError: If a number is not finite or not in [0, 1].
    """
    _check("expected_calibration_error", probability, label)
    if _checks.whole("expected_calibration_error", "bins", bins) < 1:
        raise ShapeError(f"expected_calibration_error: expected at least one bin, got {bins}; 10 is usual")
    p, y = probability.flatten(), label.flatten().to(probability)
    confidence = torch.maximum(p, 1 - p)
    correct = torch.where(p > 0.5, y, 1 - y)
    correct = torch.where(p == 0.5, torch.full_like(correct, 0.5), correct)
    # Right-closed on the last bin only: confidence 1 belongs to it.
    bin_of = ((confidence - 0.5) * (2 * bins)).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=p.dtype, device=p.device).index_add(0, bin_of, correct - confidence)
    return gap.abs().sum() / p.numel()


ece = expected_calibration_error


def _check(where: str, probability: Tensor, label: Tensor) -> None:
    _checks.same_shape(where, probability=probability, label=label)
    if probability.numel() == 0:
        raise ShapeError(f"{where}: expected at least one pair, got {list(probability.shape)}; check the split")
    _checks.finite(where, probability=probability, label=label)
    check_labels(where, label)
    bad = (probability < 0) | (probability > 1)
    if bad.any():
        raise NumericsError(
            f"{where}: expected probabilities in [0, 1], got {probability[bad][0].item()} at "
            f"{_checks.first_bad(bad)}; pass scores through expected_probability"
        )
