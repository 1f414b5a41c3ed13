r"""Expected predictive information gain (Bickford Smith et al., arXiv:2304.08151).

The value of a pair is what its label would tell about the labels of *other* pairs, not about the weights:

    EPIG(n) = mean over targets t != n of I(y_n; y_t),

with targets a sample of the unlabelled candidates themselves, never of held-out or benchmark pairs. A pair is not
its own target: else the sampled pairs would have an advantage over the others.

The covariance of two labels is that of `_labels`; a target costs one kernel row and O(N).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from bgpm import functional as F
from bgpm.acquisition import Acquisition
from bgpm.acquisition._labels import Labels
from bgpm.keys import uniform_by_key
from bgpm.types import Candidates, Uncertainty

if TYPE_CHECKING:
    from torch import Tensor


class Epig(Acquisition):
    """Mean information about the label of a target pair, in nats, in [0, log 2].

    Where annotators err (``candidates.error_rate``), what the label *they give* tells about which response of the
    target *is* better: nobody wants to predict their errors.

    Needs covariances between pairs: ConfigError for a posterior without them.

    Attributes:
        targets: How many candidates stand for the pool, drawn by a seeded hash of their keys; all of them
            when there are fewer.
    """

    kind: Literal["epig"] = "epig"
    needs: ClassVar[Uncertainty] = "kernel"
    targets: int = Field(default=128, ge=1)

    def values(self, candidates: Candidates, *, generator: np.random.Generator) -> np.ndarray:
        import torch

        kernel = candidates.kernel()
        labels = Labels.of(candidates, kernel)
        sample = np.argsort(uniform_by_key(candidates.keys, generator), kind="stable")[: self.targets]
        total = torch.zeros_like(labels.said)
        for t in sample.tolist():
            covariance = labels.covariance(kernel.row(t), slice(None), torch.tensor(t))
            information = _label_information(labels.said, labels.probability[t], labels.certain * covariance)
            information[t] = 0.0
            total += information
        others = torch.full_like(labels.said, len(sample))
        others[torch.from_numpy(sample)] -= 1
        return (total / others.clamp(min=1)).numpy()  # a pair without others has nothing to tell


def _label_information(p: Tensor, q: Tensor, covariance: Tensor) -> Tensor:
    """I(y; y') of two labels with these probabilities and covariance, in nats, [N].

    A sum over the four outcomes, each beside its probability under independence, so that weak dependence does not
    drown in rounding. A covariance is at most what leaves each outcome a probability >= 0: where the error of the
    series takes it beyond (near copies far from 0), that bound is the better number.
    """
    both, first, second, neither = p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)
    covariance = covariance.clamp(-both.minimum(neither), first.minimum(second))
    same = F.outcome_divergence(both, covariance) + F.outcome_divergence(neither, covariance)
    return same + F.outcome_divergence(first, -covariance) + F.outcome_divergence(second, -covariance)
