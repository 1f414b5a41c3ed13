"""The batch worth labelling together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bgpm.data.tables import where
from bgpm.loop.draws import drawn
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
    """The batch, in the order of picking; fewer pairs where the pool ends.

    Columns rank, pair, pair_id, gain, value, mean, variance, tau, and those of `bgpm.loop.draws.drawn`.

    Args:
        scores: Of `score`.
        model: Gives the model that scored; only called by selectors that need covariances.
    """
    uniform = bool(scores["uniform"].any())
    if uniform:
        selection = TopK()  # a uniform draw stays uniform
    pairs = pool.pairs.take(scores["pair"])
    offer = candidates(pool, scores, lambda: model().kernel(pool.features, pairs))
    wanted = min(k, len(pairs))  # selectors refuse to pick more than there are; a campaign ends with the pool
    batch = selection(offer, scores["value"], wanted, generator=generator)
    picked = where(scores, batch.rows)
    left = len(pairs) - np.arange(len(batch.rows))
    return {
        "rank": np.arange(len(batch.rows)),
        "pair": picked["pair"],
        "pair_id": pool.table["pair_id"][picked["pair"]],
        "gain": batch.gains,
        **{name: picked[name] for name in ("value", "mean", "variance", "tau")},
        **drawn(pool, len(pool.open) - len(pairs), len(batch.rows), 1 / left if uniform else batch.probability),
    }
