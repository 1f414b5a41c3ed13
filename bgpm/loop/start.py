"""The seed set."""

from __future__ import annotations

import numpy as np

from bgpm.loop.pool import Pool
from bgpm.selection import StartSettings, seed_set


def start(settings: StartSettings, pool: Pool, *, generator: np.random.Generator) -> np.ndarray:
    """Rows of the seed set, chosen without a label."""
    return pool.open[seed_set(settings, pool.features, pool.pairs.take(pool.open), generator=generator)]
