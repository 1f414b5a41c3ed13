"""Information about the weights plus diversity of prompts, after BAL-PM (arXiv:2406.10023).

BAL-PM acquires informative pairs (BALD) whose prompts keep the entropy of the acquired prompts' features high,
by a nearest-neighbour estimate (Kozachenko and Leonenko, 1987; Kraskov et al., arXiv:cond-mat/0305641). For each
dimension, a prompt x adds to it

    log D(x) - (psi(n(x) + 1) - psi(1)) / p,

D being the distance to its k-th neighbour among all prompts, acquired or on offer, and n the number of acquired
pairs whose prompts are within D: large where prompts are rare and few were acquired. psi(n + 1) - psi(1) is
1 + 1/2 + ... + 1/n.

What is different here: the published policy adds every pick of a growing batch to n, these values are those before the
batch. The setting ``max_per_prompt`` of the selectors keeps a batch from dwelling on one prompt.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bgpm import functional as F
from bgpm.acquisition import Acquisition
from bgpm.acquisition._moments import moments
from bgpm.keys import require_finite
from bgpm.types import Candidates, Uncertainty

_CHUNK = 1 << 22  # distances held at once: 32 MiB


class Balpm(Acquisition):
    """BALD + entropy_weight times the prompt's contribution above the smallest, in nats, >= 0.

    Time is O(Q^2 p) for Q prompts on offer or acquired.

    Attributes:
        entropy_weight: Weight of the bonus, >= 0. BALD is a fraction of log 2 while log D spans what the features'
            scale and dimension make it span: tune it for new features.
        neighbours: k, which neighbour's distance is taken; the last one when there are fewer prompts.
    """

    kind: Literal["balpm"] = "balpm"
    needs: ClassVar[Uncertainty] = "variance"
    entropy_weight: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    neighbours: int = Field(default=10, ge=1)

    def values(self, candidates: Candidates, *, generator: np.random.Generator) -> np.ndarray:
        information = F.bald(*moments(candidates), candidates.tau, error_rate=candidates.error_rate).numpy()
        offered, first, of = np.unique(candidates.pairs.prompt, return_index=True, return_inverse=True)
        bought, times = np.unique(candidates.bought.prompt, return_counts=True)
        prompts = candidates.features.prompts
        require_finite("prompt features", prompts[offered], candidates.keys[first])
        require_finite(
            "prompt features", prompts[bought], np.array([f"acquired of prompt {row}" for row in bought], object)
        )
        points = prompts[np.union1d(offered, bought)].astype(np.float64)
        here = prompts[offered].astype(np.float64)
        radius = _radius(here, points, self.neighbours)
        if not len(radius) or not radius.any():  # a single prompt, or copies of one
            return information
        nearest = radius[radius > 0].min()
        radius = np.maximum(radius, nearest)
        within = _count_within(here, radius, prompts[bought].astype(np.float64), times)
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, len(candidates.bought) + 1))])
        contribution = np.log(radius / nearest) - harmonic[within] / points.shape[1]
        return information + self.entropy_weight * (contribution - contribution.min())[of]


def _radius(here: np.ndarray, points: np.ndarray, neighbours: int) -> np.ndarray:
    """Distance of each row of ``here``, itself a row of ``points``, to its k-th neighbour there, [Q]."""
    neighbours = min(neighbours, len(points) - 1)
    if neighbours < 1:
        return np.zeros(len(here))
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=neighbours + 1, algorithm="brute").fit(points)
    found = search.kneighbors(here, return_distance=False)
    # The search expands |a - b|^2 and so cannot tell copies from close points: distances are taken anew, and of the
    # k + 1 found, the point itself among them, the k-th from the nearest is the largest.
    return np.max([np.sqrt(np.square(here - points[column]).sum(1)) for column in found.T], axis=0)


def _count_within(here: np.ndarray, radius: np.ndarray, others: np.ndarray, times: np.ndarray) -> np.ndarray:
    """How many others, each counted so many times, are within the radius of each row, int64 [Q]."""
    count = np.zeros(len(here), np.int64)
    own, theirs = np.square(here).sum(1), np.square(others).sum(1)
    step = max(1, _CHUNK // max(1, len(others)))
    for low in range(0, len(here), step):
        part = slice(low, low + step)
        squares = own[part, None] + theirs
        near = squares - 2 * here[part] @ others.T <= np.square(radius[part, None]) + 1e-12 * squares  # rounding
        count[part] = near @ times
    return count
