"""BALD of each pick given the picks before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from bgpm import functional as F
from bgpm.selection import Batch, Selection
from bgpm.selection._conditioning import joint_moments
from bgpm.selection._quota import Quota
from bgpm.types import Candidates, Uncertainty

if TYPE_CHECKING:
    from torch import Tensor


class ConditionalBald(Selection):
    """Greedy: the pair of highest H(E q) - E H(q) at its variance given labels at the earlier picks; gains in nats.

    Approximates BatchBALD (arXiv:1906.08158) without its sampling: the picks' labels narrow the posterior by their
    expected Fisher information, as in `logdet`, and do not move its mean. The first pick is the one `bald` ranks first.

    q is the probability of the label as annotators give it, errors included.

    It reads moments and covariances only: **values of the acquisition function are not used.** ConfigError for
    a posterior without covariances between pairs.
    """

    kind: Literal["conditional_bald"] = "conditional_bald"
    needs: ClassVar[Uncertainty] = "kernel"
    reads_values: ClassVar[bool] = False

    def pick(
        self, candidates: Candidates, values: np.ndarray, k: int, quota: Quota, *, generator: np.random.Generator
    ) -> Batch:
        mean, variance, kernel, weight = joint_moments(candidates)

        def bald(rows: Tensor, left: Tensor) -> Tensor:
            return F.bald(mean[rows], left, candidates.tau, error_rate=candidates.error_rate)

        rows, gains = F.greedy_conditional(variance, kernel.row, weight, k, bald, block=kernel.block, quota=quota)
        return Batch(rows.numpy(), gains.numpy())
