"""Information about the weights plus diversity of prompts, after BAL-PM (arXiv:2406.10023).

BAL-PM buys pairs that are informative (BALD) and whose prompts keep the entropy of the bought prompts' features
high, by a nearest-neighbour estimate. A prompt's contribution to such an estimate (Kozachenko and Leonenko, 1987) is,
for each dimension, log D, D being the distance to its k-th neighbour: large where prompts are rare.

What is different here: the entropy is that of the prompts on offer. The published policy also counts, within
D, the prompts bought so far, the ones of the growing batch included. Candidates say nothing of what was
bought, so this function does not turn away from a region that has been bought from; what was bought is gone from
the candidates, and the setting ``max_per_prompt`` of the selectors keeps a batch from dwelling on one prompt.
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


class Balpm(Acquisition):
    """BALD + entropy_weight log(D / D_min), in nats, >= 0.

    D_min is the smallest distance, so the densest prompt gets no bonus. Time is O(Q^2 p) for Q prompts on offer.

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
        prompts, first, of = np.unique(candidates.pairs.prompt, return_index=True, return_inverse=True)
        points = candidates.features.prompts[prompts]
        require_finite("prompt features", points, candidates.keys[first])
        information = F.bald(*moments(candidates), candidates.tau, error_rate=candidates.error_rate).numpy()
        return information + self.entropy_weight * _rarity(points, self.neighbours)[of]


def _rarity(points: np.ndarray, neighbours: int) -> np.ndarray:
    """log(D / D_min) for each point, [Q]; a point with ``neighbours`` copies counts as the nearest that is no copy."""
    neighbours = min(neighbours, len(points) - 1)
    if neighbours < 1:
        return np.zeros(len(points))
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(points).kneighbors(return_distance=False)
    # The search expands |a - b|^2 and so cannot tell copies from close points: distances are taken anew.
    apart = points.astype(np.float64) - points[found[:, -1]]
    distance = np.sqrt(np.einsum("qp,qp->q", apart, apart))
    if not distance.any():
        return distance
    nearest = distance[distance > 0].min()
    return np.log(np.maximum(distance, nearest) / nearest)
