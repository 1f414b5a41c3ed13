"""A world in which the model is right: labels drawn from the fit on all recorded ones.

On recorded labels an arm can fail because its acquisition function is poor or because the model is wrong where the
function acquires. Here only the first is left.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import expit

from bgpm.loop.pool import LabelledSplit, Pool, Table
from bgpm.loop.train import train
from bgpm.models.bt import Bt
from bgpm.posteriors import Fitted
from bgpm.posteriors.laplace import Laplace


def fit(pool: Pool, recorded: Table) -> Fitted:
    """Bradley-Terry as every recorded label of the pool fits it; the same for all seeds and arms.

    Args:
        recorded: Columns label and margin, a value for each row of the pool's table, NaN where unknown.
    """
    known = np.flatnonzero(~np.isnan(recorded["label"]))
    labels = {"pair": known} | {name: recorded[name][known] for name in ("label", "margin")}
    return train(Laplace(), Bt(), pool, labels, seed=0)


def drawn(world: Fitted, pool: Pool, generator: np.random.Generator) -> Table:
    """A label for each pair that may be acquired, 1 with the probability that the fit's weights give it."""
    moments = world.moments(pool.features, pool.pairs.take(pool.open))
    label = np.full(len(pool.pairs), np.nan)
    label[pool.open] = generator.random(len(pool.open)) < expit(moments.mean.numpy() / moments.tau)
    return {"label": label, "margin": np.full(len(pool.pairs), np.nan)}


def favoured(world: Fitted, heldout: LabelledSplit) -> LabelledSplit:
    """Held-out pairs labelled by the side that the fit favours: accuracy on them is free of the labels' noise."""
    return replace(heldout, label=(world.moments(heldout.features, heldout.pairs).mean.numpy() > 0).astype(np.float64))
