"""How much of their importance weights drawn labels keep: all, none, or a power of them between.

Weights of 1 / probability make labels that were drawn unevenly stand for the whole pool, at the price of variance.
Where the model is right unweighted labels are as good and vary less; where it is wrong only the weights keep it from
being led astray. So each weight v is raised to an exponent between 0 and 1, the same for all (Shimodaira, "Improving
predictive inference under covariate shift by weighting the log-likelihood function", 2000), and the exponent is the
one whose fit predicts left-out labels *of the whole pool* best: the loss of each left-out label counts by its full
weight (importance-weighted cross-validation: Sugiyama, Krauledat and Müller, JMLR 2007).

The exponent is chosen with Bradley-Terry on the same features, one precision for all of them, whatever the model: the
problem is convex and each fold costs one Newton step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bgpm.fitting.lbfgs import OnData
from bgpm.fitting.map import first_loss, held_out, splits_of
from bgpm.fitting.tensors import LabelledTensors

if TYPE_CHECKING:
    from bgpm.posteriors import MapSettings

EXPONENTS = (1.0, 0.5, 0.0)  # compared; the first of equals is taken


def weighed(settings: MapSettings, data: LabelledTensors, importance: np.ndarray, *, seed: int) -> LabelledTensors:
    """The labels with their final weights: their own times the importance weights to a power.

    Args:
        importance: float64 [N] >= 0, a label's full importance weight.
        seed: Of the folds, those of the fit.
    """
    full = torch.from_numpy(np.asarray(importance, np.float64))
    if settings.importance_exponent != "auto":
        return _with(data, full, settings.importance_exponent)
    options = [_with(data, full, exponent) for exponent in EXPONENTS]
    splits = splits_of(settings, data, seed=seed)
    if not splits:
        return options[0]
    loss = first_loss(settings)
    whole_pool = OnData(loss, options[0])
    return min(options, key=lambda option: held_out(settings, option, loss, splits, measured=whole_pool))


def tempered(full: Tensor, exponent: float) -> Tensor:
    """Powers of the importance weights that sum to what the weights sum to, so that the prior counts as much."""
    power = full**exponent
    return power * (full.sum() / power.sum())


def _with(data: LabelledTensors, full: Tensor, exponent: float) -> LabelledTensors:
    weight = tempered(full, exponent)
    return replace(data, weight=weight if data.weight is None else weight * data.weight, exponent=exponent)
