"""What selectors that give each pick the ones before it read of the posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpm import functional as F
from bgpm.keys import require_moments
from bgpm.types import Candidates, PairKernel

if TYPE_CHECKING:
    from torch import Tensor


def joint_moments(candidates: Candidates) -> tuple[Tensor, Tensor, PairKernel, Tensor]:
    """Mean and variance of each pair's score, their covariance, and each label's Fisher information.

    Raises:
        NumericsError: If a moment is not finite or a variance is negative; names the pair's key.
        ConfigError: If the posterior has no covariances.
    """
    import torch

    require_moments(candidates.mean, candidates.variance, candidates.keys)
    mean, variance = (torch.tensor(a, dtype=torch.float64) for a in (candidates.mean, candidates.variance))
    weight = F.fisher_weight(mean, variance, candidates.tau, error_rate=candidates.error_rate)
    return mean, variance, candidates.kernel(), weight
