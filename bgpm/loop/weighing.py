"""How much each label counts where labels are draws with known probabilities (`bgpm.loop.draws`).

Weights are made anew for every fit: each further draw changes them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bgpm.errors import ConfigError, DataError
from bgpm.loop.draws import COLUMNS

if TYPE_CHECKING:
    from bgpm.posteriors import Posterior
    from bgpm.selection import Selection, StartSettings


def check_draws(selection: Selection, start: StartSettings, posterior: Posterior) -> None:
    """Refuse what does not go with a selection whose labels are weighed.

    Raises:
        ConfigError: If the seed set is no draw, or the posterior counts every label once.
    """
    if not selection.draws:
        return
    if start.design != "random":
        raise ConfigError(
            f"params.yaml: start.design: {start.design} chooses the seed set, and selection: {selection.kind} weighs "
            "labels by the probability that they were drawn with; set start.design: random"
        )
    if not posterior.weighs:
        raise ConfigError(
            f"params.yaml: posterior: {posterior.kind} counts every label once, and selection: {selection.kind} weighs "
            "labels; set posterior to laplace, ensemble or point, or selection to power"
        )


def fitted_weights(labels: Mapping[str, np.ndarray], exponent: float | None) -> np.ndarray | None:
    """How often each label counted in a fit, [N], NaN where nobody could say; None where each counted once.

    Args:
        labels: What the model was trained on, as `bgpm.loop.train.train` takes it.
        exponent: Of the importance weights, as the model's summary has it; None where it had none.
    """
    told, weight = ~np.isnan(labels["label"]), labels.get("weight")
    importance = None if exponent is None else draw_weights(labels)
    if importance is None or exponent is None:
        return weight
    import torch

    from bgpm.fitting.importance import tempered

    counted = np.full(len(told), np.nan)
    counted[told] = tempered(torch.from_numpy(importance[told]), exponent).numpy()
    return counted if weight is None else counted * weight


def draw_weights(labels: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """How often each label counts, float64 [N]; None where each counts once.

    That is so where labels were chosen and not drawn, beside a seed set that may have been drawn, and where every draw
    was uniform. Pairs that nobody could label are draws too: theirs is a loss of 0.

    Args:
        labels: Of one seed, all of them: columns ``draw``, ``q``, ``pool_size`` and ``round``, or none of them.

    Raises:
        DataError: If some rounds drew and others chose, a draw is missing, or the pool grew in between.
    """
    if not all(name in labels for name in COLUMNS) or not len(labels["q"]):
        return None
    known, later = np.isfinite(labels["q"]), labels["round"] > 0
    if not known.all():
        if (known & later).any():
            first = int(labels["draw"][~known].min())
            raise DataError(
                f"label {first} was chosen and others of later rounds were drawn: such labels cannot be weighed; use "
                "one selection and one start.design from the first label on"
            )
        return None
    sizes = np.unique(labels["pool_size"])
    order = np.argsort(labels["draw"], kind="stable")
    if len(sizes) > 1 or (labels["draw"][order] != np.arange(1, len(order) + 1)).any():
        what = f"from pools of {sizes.tolist()} pairs" if len(sizes) > 1 else "of which some are missing"
        raise DataError(f"labels are draws {what}: they cannot be weighed; acquire them anew from one pool")
    import torch

    from bgpm import functional as F

    weight = np.empty(len(order))
    weight[order] = F.importance_weights(torch.tensor(labels["q"][order]), int(sizes[0])).numpy()
    return None if np.allclose(weight, 1.0, rtol=1e-9, atol=0) else weight
