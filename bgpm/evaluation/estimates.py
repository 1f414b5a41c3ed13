"""How good a model is on the pairs without a label, from the batch that was drawn after it was trained.

A model's accuracy on labels that it was trained on says little, and on labels that were chosen for their worth it is
that of those pairs. But labels that were drawn with known probabilities, and that the model has not seen yet, can be
weighed to stand for all pairs that were unlabelled then (`bgpm.functional.mean_from_draws`): no held-out label is
spent. The estimate is unbiased for the model before its batch, and for that one only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bgpm.evaluation.accuracy import correct

if TYPE_CHECKING:
    from bgpm.evaluation.curve import CurveRow

SPLIT = "estimated"
METRICS = ("accuracy", "nll")
ROUNDING = 1e-9  # of a standard error that is 0


@dataclass(frozen=True)
class Estimate:
    """What is estimated of all pairs that were unlabelled before the batch.

    Attributes:
        value: Share of pairs in the right order, where labels have a winner, or mean negative log-likelihood in nats.
            May lie outside of what is possible: cutting it off would bias it.
        error: Its standard error; NaN from one label, and where draws say nothing of it because all their values are
            the same, as all right answers are: there it is not 0 but not known, unless no pair is left.
        labels: k, draws it rests on.
    """

    value: float
    error: float
    labels: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student's interval with k - 1 degrees of freedom; it covers a point or two less than it says at k = 32."""
        from scipy.stats import t

        half = self.error * float(t.ppf((1 + level) / 2, self.labels - 1)) if self.error else 0.0
        return self.value - half, self.value + half


def estimates(batch: Mapping[str, np.ndarray]) -> dict[str, Estimate]:
    """Accuracy and negative log-likelihood of the model that scored a batch, on the pairs then without a label.

    Where some labels are ties or missing, accuracy is that of pairs with a winner and likelihood that of pairs with a
    label: ratios of two unbiased estimates, whose bias is of the order of one over the labels.

    Args:
        batch: The labels of one batch and seed: label, what the model said (mean, variance, tau), and the columns of
            draws (draw, q, pool_size).

    Returns:
        By `METRICS`; empty where the batch was not drawn, before there was a model, or nothing can be said.
    """
    if not len(batch["q"]) or not (np.isfinite(batch["q"]) & np.isfinite(batch["mean"])).all():
        return {}
    import torch

    from bgpm import functional as F

    order = np.argsort(batch["draw"], kind="stable")
    label, q = batch["label"][order], torch.tensor(batch["q"][order])
    mean, variance = (torch.tensor(batch[name][order]) for name in ("mean", "variance"))
    told = ~np.isnan(label)
    known = torch.tensor(np.where(told, label, 0.5))
    loss = F.pairwise_loss(F.predictive_logit(mean, variance, float(batch["tau"][0])), known, tau=1.0).numpy()
    right = correct(mean.numpy(), known.numpy(), tie=0.5)
    size = int(batch["pool_size"][0]) - int(batch["draw"].min()) + 1

    def mean_of(value: np.ndarray, counted: np.ndarray) -> Estimate | None:
        def total(some: np.ndarray) -> tuple[float, float]:
            estimate, error = F.mean_from_draws(torch.tensor(np.where(counted, some, 0.0)), q, size)
            return estimate.item(), error.item()

        share = 1.0 if counted.all() else total(np.ones(len(counted)))[0]
        if not counted.any():
            return None
        found = total(value)[0] / share
        error = total(value - (0.0 if share == 1.0 else found))[1] / share
        known = error > ROUNDING or len(counted) == size
        return Estimate(found, error if known else np.nan, len(counted))

    found = zip(METRICS, (mean_of(right, ~np.isnan(right)), mean_of(loss, told)), strict=True)
    return {name: estimate for name, estimate in found if estimate is not None}


def estimate_rows(batch: Mapping[str, np.ndarray]) -> Iterator[CurveRow]:
    """`estimates` as rows of a learning curve, each with its standard error."""
    for name, estimate in estimates(batch).items():
        yield SPLIT, "all", name, estimate.value
        yield SPLIT, "all", f"{name}_error", estimate.error
        yield SPLIT, "all", f"{name}_labels", float(estimate.labels)
