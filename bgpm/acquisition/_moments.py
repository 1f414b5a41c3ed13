"""Posterior moments as tensors, for the functions that need `bgpm.functional`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpm.types import Candidates

if TYPE_CHECKING:
    from torch import Tensor


def moments(candidates: Candidates) -> tuple[Tensor, Tensor]:
    """Mean and variance of each pair's score, float64 [N], before division by tau; copies."""
    import torch

    mean, variance = (torch.tensor(a, dtype=torch.float64) for a in (candidates.mean, candidates.variance))
    return mean, variance
