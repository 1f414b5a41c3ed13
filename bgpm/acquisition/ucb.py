"""Upper confidence bound of the winner's score (Srinivas et al., arXiv:0912.3995)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bgpm.acquisition import Acquisition
from bgpm.types import Candidates, Uncertainty


class Ucb(Acquisition):
    """|E s| + kappa sd[s], in units of the score.

    Made for finding a best response: it prefers pairs that are already decided, whose labels say little. An error rate
    acts through the posterior.

    Attributes:
        kappa: Weight of the standard deviation, >= 0.
    """

    kind: Literal["ucb"] = "ucb"
    needs: ClassVar[Uncertainty] = "variance"
    kappa: float = Field(default=1.0, ge=0, allow_inf_nan=False)

    def values(self, candidates: Candidates, *, generator: np.random.Generator) -> np.ndarray:
        return np.abs(candidates.mean) + self.kappa * np.sqrt(candidates.variance)
