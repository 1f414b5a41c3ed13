"""Divergence of Gaussian embeddings from their prior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bgpm.errors import ShapeError
from bgpm.functional import _checks


def variance_kl(log_variance: Tensor, prior_variance: float | Tensor) -> Tensor:
    """KL(N(m, diag(var)) || N(m, prior_variance I)), summed over coordinates, in nats, [*B].

    The means are the same on both sides, so only the variance is drawn to the prior:
    ``0.5 sum(r - 1 - log r)``, r = var / prior_variance. Add ``0.5 |m|^2 / prior_variance`` for a prior at zero.

    Args:
        log_variance: Logarithm of the variance of each coordinate, [*B, D].
        prior_variance: One positive number.

    Raises:
        ShapeError: If ``log_variance`` is a scalar or ``prior_variance`` more than one number.
        NumericsError: If a number is not finite or the prior variance is not positive.
    """
    _checks.finite("variance_kl", log_variance=log_variance)
    if log_variance.ndim == 0:
        raise ShapeError("variance_kl: expected log_variance [*B, D], got a scalar; add the coordinate dimension")
    value = _checks.positive("variance_kl", "prior_variance", prior_variance, "the paper's is 0.03")
    log_ratio = log_variance - (prior_variance.log() if isinstance(prior_variance, Tensor) else math.log(value))
    divergence = 0.5 * (torch.expm1(log_ratio) - log_ratio).sum(-1)
    _checks.finite("variance_kl", divergence=divergence)
    return divergence
