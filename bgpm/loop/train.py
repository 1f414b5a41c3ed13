"""A model from the labels so far."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bgpm.loop.pool import Pool
from bgpm.models import Model
from bgpm.posteriors import Fitted, Posterior
from bgpm.types import Comparisons


def train(posterior: Posterior, model: Model, pool: Pool, labels: Mapping[str, np.ndarray], *, seed: int) -> Fitted:
    """A model trained from the base on labels: columns pair, label, margin, and weight where labels have one."""
    data = Comparisons(pool.pairs.take(labels["pair"]), labels["label"], labels["margin"], labels.get("weight"))
    return posterior.fit(model, pool.features, data, seed=seed)
