"""D-optimal design by Fisher information (arXiv:2502.04354)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from bgpm import functional as F
from bgpm.acquisition import Acquisition
from bgpm.acquisition._moments import moments
from bgpm.types import Candidates, Uncertainty


class Dopt(Acquisition):
    """E[p(1 - p)] / tau^2 times Var[s], without unit.

    Where annotators err (``candidates.error_rate``) the first factor is the Fisher information of the label they give.

    With u this value, 1/2 log(1 + u) nats is what one label adds to the log determinant of the weights'
    precision; it ranks pairs in the same way. The selector `logdet` does so for whole batches.
    """

    kind: Literal["dopt"] = "dopt"
    needs: ClassVar[Uncertainty] = "variance"

    def values(self, candidates: Candidates, *, generator: np.random.Generator) -> np.ndarray:
        mean, variance = moments(candidates)
        weight = F.fisher_weight(mean, variance, candidates.tau, error_rate=candidates.error_rate)
        return (weight * variance).numpy()
