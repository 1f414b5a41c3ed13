"""A model from the labels so far."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bgpm.loop.pool import Pool
from bgpm.loop.weighing import draw_weights
from bgpm.models import Model
from bgpm.posteriors import Fitted, Posterior
from bgpm.types import Comparisons


def train(posterior: Posterior, model: Model, pool: Pool, labels: Mapping[str, np.ndarray], *, seed: int) -> Fitted:
    """A model trained from the base on all labels so far.

    Args:
        labels: Columns pair, label (NaN where nobody could say; such a pair trains nothing), margin; where labels have
            one, weight; where they are draws, those of `bgpm.loop.draws`, whose weights come on top.

    Raises:
        DataError: If draws cannot be weighed.
    """
    told, weight, importance = ~np.isnan(labels["label"]), labels.get("weight"), draw_weights(labels)
    data = Comparisons(
        pool.pairs.take(labels["pair"][told]),
        labels["label"][told],
        labels["margin"][told],
        None if weight is None else weight[told],
        None if importance is None else importance[told],
    )
    return posterior.fit(model, pool.features, data, seed=seed)
