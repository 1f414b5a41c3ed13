"""Values weighed by how typical a pair is, so that outliers are not preferred."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from bgpm.selection import Batch
from bgpm.selection._pair_features import differences
from bgpm.selection._quota import Quota
from bgpm.selection._wrapper import Wrapper
from bgpm.types import Candidates

_CHUNK = 4096  # pairs whose distances to the sample are held at once: 32 MiB


class Dense(Wrapper):
    """Each value times density^exponent, then another selector's choice; gains are that one's.

    Information density (Settles and Craven, EMNLP 2008) with typicality for the density (TypiClust,
    arXiv:2202.02794): density = 1 / (1 + D / median D), in (0, 1], D being the distance of a pair's
    phi_a - phi_b to its ``neighbours``-th neighbour among the pairs on offer, min(|x - y|, |x + y|) so that a
    pair and its swap are one point. It is 1/2 for the middling pair, and there is no infinite density at copies.
    Negative values (`margin`) are divided by it, so that more density is never a loss.

    Pairs of like responses lie close together around x = 0 and count as typical: beside `entropy`, which is highest
    where two responses score the same, this acquires them.

    Attributes:
        exponent: 0 for no effect.
        neighbours: Which neighbour's distance is taken; the last one where there are fewer pairs.
        sample: Neighbours are looked for among this many pairs, a seeded draw: O(N sample p) time.
    """

    kind: Literal["dense"] = "dense"
    exponent: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    neighbours: int = Field(default=10, ge=1)
    sample: int = Field(default=2048, ge=2)

    @model_validator(mode="after")
    def _the_inner_selector_reads_values(self) -> Dense:
        if not self.reads_values:
            raise ValueError(
                f"inner: {self.inner} does not read the values that density would change; use top_k or power"
            )
        return self

    def pick(
        self, candidates: Candidates, values: np.ndarray, k: int, quota: Quota, *, generator: np.random.Generator
    ) -> Batch:
        weight = _density(differences(candidates), self.neighbours, self.sample) ** self.exponent
        weighed = np.where(values < 0, values / weight, values * weight)
        return self.selector.pick(candidates, weighed, k, quota, generator=generator)


def _density(points: np.ndarray, neighbours: int, sample: int) -> np.ndarray:
    """1 / (1 + D / median D) of each point, float64 [N]; rows come in a seeded order, so the first are a sample."""
    others = points[:sample]
    nth = min(neighbours, len(others) - 1)
    if nth < 1:
        return np.ones(len(points))
    squares = np.einsum("np,np->n", points, points)
    distance = np.empty(len(points))
    for low in range(0, len(points), _CHUNK):
        part = slice(low, low + _CHUNK)
        # min(|x - y|^2, |x + y|^2) = |x|^2 + |y|^2 - 2 |x . y|
        apart = squares[part, None] + squares[: len(others)] - 2 * np.abs(points[part] @ others.T)
        own = np.arange(low, min(low + _CHUNK, len(others)))
        apart[own - low, own] = np.inf  # nobody is a neighbour of itself
        distance[part] = np.sqrt(np.maximum(np.partition(apart, nth - 1, axis=1)[:, nth - 1], 0))
    if not distance.any():
        return np.ones(len(points))
    return 1 / (1 + distance / np.median(distance[distance > 0]))
