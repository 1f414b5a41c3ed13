"""Smallest margin: uncertainty sampling on the posterior mean (Lewis and Gale, arXiv:cmp-lg/9407020)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bgpm.acquisition import Acquisition
from bgpm.types import Candidates


class Margin(Acquisition):
    """-|E s|, in units of the score, so at most 0.

    The plug-in form of `entropy`: it does not see the posterior variance. An error rate acts through the posterior.
    """

    kind: Literal["margin"] = "margin"

    def values(self, candidates: Candidates, *, generator: np.random.Generator) -> np.ndarray:
        return -np.abs(candidates.mean)
