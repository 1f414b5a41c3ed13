"""The batch worth labelling together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bgpm.data.tables import where
from bgpm.loop.pool import Pool, Table, candidates
from bgpm.posteriors import Fitted
from bgpm.selection import Selection
from bgpm.selection.top_k import TopK


def select(
    selection: Selection,
    pool: Pool,
    scores: Table,
    model: Callable[[], Fitted],
    k: int,
    *,
    generator: np.random.Generator,
) -> Table:
    """The batch, in the order of picking: rank, pair, pair_id, gain, value, mean, variance. Fewer where the pool ends.

    Args:
        scores: Of `score`.
        model: Gives the model that scored; only called by selectors that need covariances.
    """
    if scores["uniform"].any():
        selection = TopK()  # a uniform draw stays uniform
    pairs = pool.pairs.take(scores["pair"])
    offer = candidates(pool, scores, lambda: model().kernel(pool.features, pairs))
    wanted = min(k, len(pairs))  # selectors refuse to pick more than there are; a campaign ends with the pool
    batch = selection(offer, scores["value"], wanted, generator=generator)
    picked = where(scores, batch.rows)
    return {
        "rank": np.arange(len(batch.rows)),
        "pair": picked["pair"],
        "pair_id": pool.table["pair_id"][picked["pair"]],
        "gain": batch.gains,
        **{name: picked[name] for name in ("value", "mean", "variance")},
    }
