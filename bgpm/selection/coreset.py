"""A batch that covers the pool: greedy k-centre (Sener and Savarese, arXiv:1708.00489)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bgpm.selection import Batch, Selection
from bgpm.selection._pair_features import differences
from bgpm.selection._quota import Quota
from bgpm.types import Candidates


class Coreset(Selection):
    """Each pick is the pair farthest from all earlier picks.

    The distance of two pairs is min(|x - y|, |x + y|) for x, y = phi_a - phi_b, so a pair and its swap are
    one point. The first pick is the pair of highest value; after it values do not matter, and outliers are
    acquired early. Greedy k-centre covers the pool within twice the smallest possible radius. It starts from nothing:
    what was acquired in earlier rounds is not a centre.

    Gains are distances to the nearest earlier pick, in the unit of the features; for the first pick, to x = 0. In
    float32, with one vector of smallest distances: O(N p) memory and O(N p) time a pick.
    """

    kind: Literal["coreset"] = "coreset"

    def pick(
        self, candidates: Candidates, values: np.ndarray, k: int, quota: Quota, *, generator: np.random.Generator
    ) -> Batch:
        points = differences(candidates)
        squares = np.einsum("np,np->n", points, points)
        nearest = np.full(len(points), np.inf, np.float32)  # squared distance to the nearest pick

        def cover(j: int) -> None:
            # min(|x - y|^2, |x + y|^2) = |x|^2 + |y|^2 - 2 |x . y|
            apart = squares + squares[j] - 2 * np.abs(points @ points[j])
            np.minimum(nearest, np.maximum(apart, 0), out=nearest)

        for j in quota.taken:
            cover(j)
        rows, gains = np.empty(k, np.int64), np.empty(k)
        for t in range(k):
            first = not quota.taken
            j = int(np.argmax(np.where(quota.open(), values if first else nearest, -np.inf)))
            rows[t], gains[t] = j, np.sqrt(squares[j] if first else nearest[j])
            quota.take(j)
            cover(j)
        return Batch(rows, gains)
