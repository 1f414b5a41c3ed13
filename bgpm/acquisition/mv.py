"""Maximum variance (MacKay, Neural Computation 4, 1992, for regression)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from bgpm.acquisition import Acquisition
from bgpm.types import Candidates, Uncertainty


class Mv(Acquisition):
    """Var[s], in squared units of the score.

    It ignores how much the label can say about the score, E[p(1 - p)]: pairs whose winner is beyond doubt
    count as much as open ones, so it can lose to a uniform draw. `dopt` has the factor. An error rate acts through the
    posterior.
    """

    kind: Literal["mv"] = "mv"
    needs: ClassVar[Uncertainty] = "variance"

    def values(self, candidates: Candidates, *, generator: np.random.Generator) -> np.ndarray:
        return np.array(candidates.variance, np.float64)
