"""A batch spread over clusters, the most valuable pairs of each (k-means++: Arthur and Vassilvitskii, 2007)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from bgpm.selection import Batch, Selection
from bgpm.selection._pair_features import differences
from bgpm.selection._quota import Quota
from bgpm.types import Candidates

_STEPS = 100  # mini-batches of 1024 pairs
_BATCH = 1024


class Cluster(Selection):
    """Equal shares of the batch from each cluster of |phi_a - phi_b|, best values first.

    The picks go round the clusters, so each has the same budget, k / clusters pairs; what a small cluster cannot
    give is taken from the others. The absolute value makes a pair and its swap one point. Clusters come from
    mini-batch k-means, started by k-means++, with a fixed number of steps so that the result is reproducible.
    Gains are the values.

    A uniform draw that passes through clusters is not uniform any more.

    Attributes:
        clusters: How many clusters; None for as many as the batch has pairs, one pick from each. With more clusters
            than candidates each candidate is one.
    """

    kind: Literal["cluster"] = "cluster"
    clusters: int | None = Field(default=None, ge=1)

    def pick(
        self, candidates: Candidates, values: np.ndarray, k: int, quota: Quota, *, generator: np.random.Generator
    ) -> Batch:
        points = np.abs(differences(candidates))
        cluster = _clusters(points, min(self.clusters or k, len(points)), seed=int(generator.integers(2**31)))
        by_value = np.argsort(-values, kind="stable")
        turn = _rank_within(cluster[by_value])
        ranked = by_value[np.argsort(turn, kind="stable")]
        rows = quota.first(ranked, k)
        return Batch(rows, values[rows])


def _clusters(points: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Cluster of each point, int [N]."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(
        count,
        init="k-means++",
        batch_size=_BATCH,
        max_iter=math.ceil(_STEPS * min(_BATCH, len(points)) / len(points)),
        random_state=seed,
    )
    model.set_params(max_no_improvement=None)  # stopping early hangs on sums whose rounding depends on the threads
    return model.fit_predict(points)


def _rank_within(group: np.ndarray) -> np.ndarray:
    """How many earlier rows have the same group, int [N]."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(starts, np.diff(starts, append=len(group)))
    return rank
