"""Information about the weights (Houlsby et al., arXiv:1112.5745)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from bgpm import functional as F
from bgpm.acquisition import Acquisition
from bgpm.acquisition._moments import moments
from bgpm.types import Candidates, Uncertainty


class Bald(Acquisition):
    """H(E p) - E H(p): mutual information between the label and the score, in nats, in [0, log 2].

    The label is the one that annotators give, errors included (``candidates.error_rate``). By quadrature, so without
    Monte Carlo noise. The values of several pairs do not add up: their labels may
    tell the same thing. The selectors `logdet` and `conditional_bald` know that.
    """

    kind: Literal["bald"] = "bald"
    needs: ClassVar[Uncertainty] = "variance"

    def values(self, candidates: Candidates, *, generator: np.random.Generator) -> np.ndarray:
        return F.bald(*moments(candidates), candidates.tau, error_rate=candidates.error_rate).numpy()
