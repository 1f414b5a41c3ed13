"""Entropy of the next label: uncertainty sampling with the posterior averaged over."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bgpm import functional as F
from bgpm.acquisition import Acquisition
from bgpm.acquisition._moments import moments
from bgpm.types import Candidates


class Entropy(Acquisition):
    """H(E p), in nats, in [0, log 2].

    The sum of what the model does not know (`bald`) and of the label's own noise: where labels are noisy it
    may acquire coin tosses. It does not chase the most extreme feature differences, as the variance does.

    p is the probability that response_a *is* better, also where annotators err: their errors add the same noise
    to every pair, so the ranking would be the same, and the odds that `power` makes of the values only flatter. An
    error rate acts through the posterior.
    """

    kind: Literal["entropy"] = "entropy"

    def values(self, candidates: Candidates, *, generator: np.random.Generator) -> np.ndarray:
        return F.predictive_entropy(*moments(candidates), candidates.tau).numpy()
