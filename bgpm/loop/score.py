"""The value of a label for each pair on offer."""

from __future__ import annotations

import numpy as np

from bgpm.acquisition import Acquisition
from bgpm.loop.pool import Pool, Table, candidates
from bgpm.posteriors import Fitted


def score(
    acquisition: Acquisition, model: Fitted, pool: Pool, bought: np.ndarray, *, generator: np.random.Generator
) -> Table:
    """What a label for each pair that is neither held out nor bought would be worth.

    Returns:
        Columns pair (row), mean, variance, tau, error_rate, value, uniform.
    """
    rows = np.setdiff1d(pool.open, bought)
    pairs = pool.pairs.take(rows)
    moments = model.moments(pool.features, pairs)
    scores = {
        "pair": rows,
        "mean": moments.mean.numpy(),
        "variance": moments.variance.numpy(),
        "tau": np.full(len(rows), moments.tau),
        "error_rate": np.full(len(rows), moments.error_rate),
    }
    offer = candidates(pool, scores, lambda: model.kernel(pool.features, pairs), bought)
    values = acquisition(offer, generator=generator)
    return scores | {"value": values, "uniform": np.full(len(rows), acquisition.uniform)}
