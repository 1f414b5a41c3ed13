"""The seed set."""

from __future__ import annotations

import numpy as np

from bgpm.loop.draws import drawn
from bgpm.loop.pool import Pool, Table
from bgpm.selection import StartSettings, seed_set


def start(settings: StartSettings, pool: Pool, *, generator: np.random.Generator) -> np.ndarray:
    """Rows of the seed set, chosen without a label."""
    return pool.open[seed_set(settings, pool.features, pool.pairs.take(pool.open), generator=generator)]


def seed_batch(settings: StartSettings, pool: Pool, *, generator: np.random.Generator) -> Table:
    """The seed set as a batch: rank, pair, pair_id, gain, value, mean, variance, tau, and those of `drawn`.

    What a model would say is NaN: there is none yet.
    """
    rows = start(settings, pool, generator=generator)
    left = len(pool.open) - np.arange(len(rows))
    return {
        "rank": np.arange(len(rows)),
        "pair": rows,
        "pair_id": pool.table["pair_id"][rows],
        **{name: np.full(len(rows), np.nan) for name in ("gain", "value", "mean", "variance", "tau")},
        **drawn(pool, 0, len(rows), 1 / left if settings.design == "random" else None),
    }
