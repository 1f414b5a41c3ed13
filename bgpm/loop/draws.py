"""Labels as draws: which draw each was, and with what probability.

Three columns stay with a label from the batch to every fit. ``draw`` is its place among all acquired pairs of its seed,
1 for the first of the seed set; ``q`` the probability with which it was drawn from the pairs then left, NaN where it
was chosen and not drawn; ``pool_size`` the pairs of the pool before the first draw. What weights follow from them is
said in `bgpm.loop.weighing`.
"""

from __future__ import annotations

import numpy as np

from bgpm.loop.pool import Pool, Table

COLUMNS = ("draw", "q", "pool_size")


def drawn(pool: Pool, before: int, count: int, probability: np.ndarray | None) -> Table:
    """The columns of a batch of ``count`` pairs.

    Args:
        before: Pairs acquired before it.
        probability: Of each draw; None where the batch was chosen.
    """
    return {
        "draw": np.arange(before + 1, before + count + 1),
        "q": np.full(count, np.nan) if probability is None else probability,
        "pool_size": np.full(count, len(pool.open)),
    }
