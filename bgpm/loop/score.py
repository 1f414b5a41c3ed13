"""The value of a label for each pair on offer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from bgpm.acquisition import Acquisition
from bgpm.evaluation.curve import probabilities
from bgpm.fitting.tensors import CHUNK
from bgpm.loop.pool import Pool, Table, candidates
from bgpm.posteriors import Fitted
from bgpm.types import Pairs, ScoreMoments


def score(
    acquisition: Acquisition,
    model: Fitted,
    pool: Pool,
    acquired: np.ndarray,
    *,
    generator: np.random.Generator,
    moments: ScoreMoments | None = None,
) -> Table:
    """Value of a label for each pair that is neither held out nor acquired.

    Args:
        moments: Of the scores of `on_offer`, where they are known already.

    Returns:
        Columns pair (row), mean, variance, tau, error_rate, value, uniform, probability (that response_a is better).
    """
    rows, pairs = on_offer(pool, acquired)
    moments = moments or model.moments(pool.features, pairs)
    scores = {
        "pair": rows,
        "mean": moments.mean.numpy(),
        "variance": moments.variance.numpy(),
        "tau": np.full(len(rows), moments.tau),
        "error_rate": np.full(len(rows), moments.error_rate),
    }
    offer = candidates(pool, scores, lambda: model.kernel(pool.features, pairs), acquired)
    values = acquisition(offer, generator=generator)
    beside = {"uniform": np.full(len(rows), acquisition.uniform), "probability": probabilities(moments)}
    return scores | {"value": values} | beside


def on_offer(pool: Pool, acquired: np.ndarray) -> tuple[np.ndarray, Pairs]:
    """Rows of the pairs that are neither held out nor acquired, and the pairs."""
    rows = np.setdiff1d(pool.open, acquired)
    return rows, pool.pairs.take(rows)


def shared_moments(model: Fitted, pool: Pool, acquired: np.ndarray, group: Any) -> ScoreMoments | None:
    """Moments of the scores of all pairs on offer, computed by several processes, the same to the bit as by one.

    Each takes a run of whole chunks, those that one process would compute at once; with as many threads each, the sums
    are the same sums.

    Args:
        group: Of `bgpm.launch.process_group`.

    Returns:
        On the group's first process the moments, on the others None.
    """
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    _, pairs = on_offer(pool, acquired)
    chunks = -(-len(pairs) // CHUNK)
    first, stop = (CHUNK * (chunks * n // world) for n in (rank, rank + 1))
    mine = model.moments(pool.features, pairs.take(np.arange(first, min(stop, len(pairs)))))
    parts: list[Any] | None = [None] * world if rank == 0 else None
    dist.gather_object((mine.mean, mine.variance), parts, group=group, group_dst=0)
    if parts is None:
        return None
    mean, variance = (torch.cat(column) for column in zip(*parts, strict=True))
    return ScoreMoments(mean, variance, mine.tau, mine.error_rate)
