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

Of more than `EXACT` prompts D is taken among candidates: those that share a leaf with x in one of `TREES` random trees,
each of which cuts the prompts in two along lines through two of them until at most `LEAF` are left (random projection
trees; Dasgupta and Freund, STOC 2008). Exact search takes time that grows with the square of their number, and in 64
dimensions space-partitioning trees that promise to be exact look at all prompts too. Candidates miss some neighbours,
so D comes out larger by a factor that is nearly the same for every prompt, and a common factor does not count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bgpm import functional as F
from bgpm.acquisition import Acquisition
from bgpm.acquisition._moments import moments
from bgpm.keys import require_finite
from bgpm.types import Candidates, Uncertainty

EXACT = 5_000  # prompts that are all compared with each other
TREES, LEAF = 6, 384
_CHUNK = 1 << 22  # distances held at once: 32 MiB


class Balpm(Acquisition):
    """BALD + entropy_weight times the prompt's contribution above the smallest, in nats, >= 0.

    Time is O(Q (log Q + B) p) for Q prompts on offer and B acquired.

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
        acquired, times = np.unique(candidates.acquired.prompt, return_counts=True)
        prompts = candidates.features.prompts
        require_finite("prompt features", prompts[offered], candidates.keys[first])
        require_finite(
            "prompt features", prompts[acquired], np.array([f"acquired of prompt {row}" for row in acquired], object)
        )
        known = np.union1d(offered, acquired)
        points, here = prompts[known].astype(np.float64), prompts[offered].astype(np.float64)
        if len(points) > max(EXACT, LEAF, 8 * self.neighbours):
            radius = _radius_in_trees(prompts[known], self.neighbours, generator)[np.searchsorted(known, offered)]
        else:
            radius = _radius(here, points, self.neighbours)
        if not len(radius) or not radius.any():  # a single prompt, or copies of one
            return information
        nearest = radius[radius > 0].min()
        radius = np.maximum(radius, nearest)
        within = _count_within(here, radius, prompts[acquired].astype(np.float64), times)
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, len(candidates.acquired) + 1))])
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


def _radius_in_trees(points: np.ndarray, neighbours: int, generator: np.random.Generator) -> np.ndarray:
    """Distance of each row to its k-th neighbour among those it shares a leaf with, [Q]; at least the exact one.

    A candidate is one integer, so that sorting needs no second array: where numbers are not negative, the bits of a
    float32 are in the order of its value, and a row's number fits into the bits of least weight.
    """
    kept = neighbours + 1  # of each leaf, the point itself among them
    centred = (points - points.mean(0, dtype=np.float64)).astype(np.float32)  # finds candidates; distances are float64
    squares, ones = np.square(centred).sum(1, keepdims=True), np.ones((len(points), 1), np.float32)
    left, right = np.hstack([-2 * centred, squares, ones]), np.hstack([centred, ones, squares])  # x . y is |x - y|^2
    candidates = np.empty((len(points), TREES, kept), np.int64)  # row, then squared distance
    for tree in range(TREES):
        for rows in _leaves(centred, max(LEAF, 8 * neighbours), generator):
            places = (1 << (len(rows) - 1).bit_length()) - 1
            apart = left[rows] @ right[rows].T
            near = np.maximum(apart, 0, out=apart).view(np.int32)
            near &= ~places
            near |= np.arange(len(rows), dtype=np.int32)
            near.partition(neighbours, axis=1)
            near = near[:, :kept]
            candidates[rows, tree] = rows[near & places] << 32 | near & ~places
    radius = np.empty(len(points))
    low_bits, infinite = (1 << 32) - 1, int(np.float32(np.inf).view(np.int32))
    step = max(1, _CHUNK // (kept * points.shape[1]))
    for low in range(0, len(points), step):
        part = slice(low, low + step)
        found = np.sort(candidates[part].reshape(-1, TREES * kept), axis=1)
        rows, apart = found >> 32, found & low_bits
        apart[:, 1:][rows[:, 1:] == rows[:, :-1]] = infinite  # found by several trees
        nearest = np.partition(apart << 32 | rows, neighbours, axis=1)[:, :kept] & low_bits
        between = np.subtract(points[nearest], points[part, None], dtype=np.float64)
        radius[part] = np.sqrt(np.einsum("qkp,qkp->qk", between, between).max(1))
    return radius


def _leaves(points: np.ndarray, largest: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """The rows of each leaf of one random tree: at most ``largest``, and all alike in size."""
    levels = math.ceil(math.log2(max(1, len(points) / largest))) + 1
    ends = points[generator.choice(len(points), (2, levels))]
    along = (ends[0] - ends[1]) @ points.T  # one line for all nodes of a level: points are read once, in their order
    waiting = [(np.arange(len(points)), 0)]
    while waiting:
        rows, level = waiting.pop()
        leaves = -(-len(rows) // largest)
        if leaves == 1:
            yield rows
            continue
        cut = len(rows) * (leaves // 2) // leaves
        order = np.argpartition(along[level][rows], cut)
        waiting += [(rows[order[:cut]], level + 1), (rows[order[cut:]], level + 1)]


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
