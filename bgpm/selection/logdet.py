"""The batch with the most joint information, in the Gaussian approximation (arXiv:1906.08158 for the aim)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from bgpm import functional as F
from bgpm.selection import Batch, Selection
from bgpm.selection._conditioning import joint_moments
from bgpm.selection._quota import Quota
from bgpm.types import Candidates, Uncertainty


class Logdet(Selection):
    """Greedy maximisation of 1/2 log det(I + L^1/2 K L^1/2) over batches; gains in nats.

    K is the posterior covariance between the scores of pairs and L the Fisher information of a label about its score,
    E[p(1 - p)] / tau^2 where annotators do not err, both as they are before the batch. The objective is monotone and
    submodular, so the batch is worth at least 1 - 1/e of the best one. A copy of a picked pair gains little.

    It reads moments and covariances only: **values of the acquisition function are not used.** ConfigError for
    a posterior without covariances between pairs.
    """

    kind: Literal["logdet"] = "logdet"
    needs: ClassVar[Uncertainty] = "kernel"
    reads_values: ClassVar[bool] = False

    def pick(
        self, candidates: Candidates, values: np.ndarray, k: int, quota: Quota, *, generator: np.random.Generator
    ) -> Batch:
        _, variance, kernel, weight = joint_moments(candidates)
        rows, gains = F.greedy_logdet(variance, kernel.row, weight, k, block=kernel.block, quota=quota)
        return Batch(rows.numpy(), gains.numpy())
