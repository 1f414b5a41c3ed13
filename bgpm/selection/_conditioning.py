"""Greedy choice when each label, not yet known, makes the scores of other pairs more certain."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from bgpm.errors import NumericsError
from bgpm.selection import Batch
from bgpm.selection._quota import Quota
from bgpm.types import PairKernel

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 1024  # stale gains recomputed at once


class ConditionalVariance:
    """Variance of every pair's score given labels at the pairs observed so far, by partial Cholesky.

    A label at pair j is taken as a Gaussian observation of its score with precision ``weight[j]``, so the variance
    does not depend on what the label will be. It equals that of the posterior refitted with those pairs at those
    weights. One kernel row an observation, O(N k) memory for k observations.

    Attributes:
        variance: float64 [N].
    """

    def __init__(self, kernel: PairKernel, variance: Tensor, weight: Tensor, capacity: int) -> None:
        self.variance = variance.clone()
        self._start = variance
        self._kernel = kernel
        self._weight = weight
        self._columns = variance.new_empty((capacity, len(variance)))
        self._observed = 0

    def observe(self, j: int) -> None:
        """Condition on a label at pair j.

        Raises:
            NumericsError: If the kernel's rows contradict its diagonal.
        """
        t, weight = self._observed, self._weight[j]
        # c = (K[:, j] - C C_j^T) sqrt(L_j) / sqrt(1 + L_j v_j); no division by L_j, which may be 0.
        column = self._kernel.row(j) - self._columns[:t, j] @ self._columns[:t]
        column *= (weight / (1 + weight * self.variance[j])).sqrt()
        self._columns[t] = column
        self._observed += 1
        self.variance -= column.square()
        if (self.variance < -1e-9 * self._start).any():
            raise NumericsError(
                f"pair kernel: row {j} lets a variance fall to {self.variance.min().item()}, expected >= 0; "
                "the kernel's rows and its diagonal contradict each other"
            )
        self.variance.clamp_(min=0)  # what is left below 0 is rounding


def greedy(
    kernel: PairKernel,
    variance: Tensor,
    weight: Tensor,
    k: int,
    quota: Quota,
    gain: Callable[[Tensor, Tensor], Tensor],
) -> Batch:
    """Pick k pairs one by one, each with the highest gain given the picks before it.

    Gains are recomputed only where they may matter: as variances only fall and a gain grows with the variance,
    yesterday's gain bounds today's (lazy greedy: Minoux, 1978).

    Args:
        kernel: Covariance between pairs.
        variance: Its diagonal, float64 [N].
        weight: Fisher information of each label about its score, float64 [N].
        k: How many, at most N.
        quota: Which pairs may still be picked; labels at those picked before count as known.
        gain: Maps rows [n] and their conditional variances [n] to gains [n] that do not fall as the variance grows.

    Returns:
        The batch; of gains equal up to rounding the lower row wins.
    """
    import torch

    conditional = ConditionalVariance(kernel, variance, weight, k + len(quota.taken))
    for j in quota.taken:
        conditional.observe(j)
    bound = gain(torch.arange(len(variance)), conditional.variance)
    slack = 1e-12 * bound.max()
    fresh = torch.ones(len(bound), dtype=torch.bool)
    rows, gains = np.empty(k, np.int64), np.empty(k)
    for t in range(k):
        open_ = torch.from_numpy(quota.open())
        while True:
            best = bound[open_ & fresh].max() if (open_ & fresh).any() else bound.new_tensor(-torch.inf)
            rivals = (open_ & ~fresh & (bound >= best - slack)).nonzero()[:, 0]
            if len(rivals) == 0:
                break
            block = rivals[bound[rivals].topk(min(max(_BLOCK, len(bound) // 16), len(rivals))).indices]
            bound[block] = gain(block, conditional.variance[block])
            fresh[block] = True
        j = int((open_ & fresh & (bound >= best - slack)).nonzero()[0, 0])
        rows[t], gains[t] = j, bound[j]
        quota.take(j)
        conditional.observe(j)
        fresh[:] = False
    return Batch(rows, gains)
