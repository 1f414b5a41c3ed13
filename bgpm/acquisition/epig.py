r"""Expected predictive information gain (Bickford Smith et al., arXiv:2304.08151).

The value of a pair is what its label would tell about the labels of *other* pairs, not about the weights:

    EPIG(n) = mean over targets t != n of I(y_n; y_t),

with targets a sample of the unlabelled candidates themselves, never of held-out or benchmark pairs. A pair is not
its own target: else the sampled pairs would have an advantage over the others.

The scores of two pairs are jointly Gaussian with correlation r from the pair kernel, so the two labels have
probabilities p_n = E sigmoid(x_n), p_t = E sigmoid(x_t) and covariance (Mehler's formula)

    Cov(y_n, y_t) = sum_{k >= 1} r^k c_k(n) c_k(t),    c_k = E[sigmoid(mu + sd z) He_k(z)] / sqrt(k!),  z ~ N(0, 1).

The coefficients are computed once a pair by the trapezoid rule, and a target costs one kernel row and O(N).
The series is cut after 16 terms: the relative error of I is below 1e-5 for sd <= 1 whatever r is, and for
|r| <= 0.5 whatever sd is; for near copies, r = 0.99, it grows to 2% at sd = 5 and 12% at sd = 20.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from bgpm import functional as F
from bgpm.acquisition import Acquisition
from bgpm.acquisition._moments import moments
from bgpm.errors import NumericsError
from bgpm.keys import uniform_by_key
from bgpm.types import Candidates, Uncertainty

if TYPE_CHECKING:
    from torch import Tensor

_TERMS = 16
_CHUNK = 1 << 13  # pairs whose integrands are held at once: 24 MiB


class Epig(Acquisition):
    """Mean information about the label of a target pair, in nats, in [0, log 2].

    Where annotators err (``candidates.error_rate``), what the label *they give* tells about which answer of the target
    *is* better: nobody wants to predict their errors.

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
        mean, _ = moments(candidates)
        variance = kernel.diagonal().to(mean)
        # Every pair is turned so that its first answer is the likely loser: then a pair and its swap are one.
        turn = torch.where(mean > 0, -1.0, 1.0).to(mean)
        probability = F.expected_probability(-mean.abs(), variance, candidates.tau)
        said = candidates.error_rate + (1 - 2 * candidates.error_rate) * probability
        sd = variance.sqrt()
        coefficients = _hermite_coefficients(-mean.abs() / candidates.tau, sd / candidates.tau)
        sample = np.argsort(uniform_by_key(candidates.keys, generator), kind="stable")[: self.targets]
        total = torch.zeros_like(mean)
        for t in sample.tolist():
            scale = sd * sd[t]
            correlation = torch.where(scale > 0, turn * turn[t] * kernel.row(t) / scale, torch.zeros_like(scale))
            _refuse_impossible(correlation, t, candidates.keys)
            covariance = torch.zeros_like(mean)
            for c in coefficients.flip(0):  # Horner's rule
                covariance = correlation * (covariance + c * c[t])
            information = _label_information(said, probability[t], (1 - 2 * candidates.error_rate) * covariance)
            information[t] = 0.0
            total += information
        others = torch.full_like(mean, len(sample))
        others[torch.from_numpy(sample)] -= 1
        return (total / others.clamp(min=1)).numpy()  # a pair without others has nothing to tell


def _refuse_impossible(correlation: Tensor, t: int, keys: np.ndarray) -> None:
    worst = int(correlation.abs().argmax())
    if not abs(correlation[worst]) <= 1 + 1e-6:
        raise NumericsError(
            f"covariance of pairs {keys[worst]!r} and {keys[t]!r}: expected a correlation in [-1, 1], got "
            f"{correlation[worst].item()}; the kernel's rows and its diagonal contradict each other"
        )


def _hermite_coefficients(mu: Tensor, sd: Tensor) -> Tensor:
    """c_1 .. c_16 of sigmoid(mu + sd z), [16, N]."""
    import torch

    step = 0.05  # the poles of the sigmoid at +-i pi / sd set the error: below 1e-8 for sd <= 20
    z = torch.arange(-180, 181, dtype=mu.dtype) * step
    polynomials = [torch.ones_like(z), z]
    for k in range(2, _TERMS + 1):
        polynomials.append((z * polynomials[-1] - math.sqrt(k - 1) * polynomials[-2]) / math.sqrt(k))
    weights = torch.stack(polynomials[1:]) * torch.exp(-0.5 * z.square()) * (step / math.sqrt(2 * math.pi))
    parts = zip(mu.split(_CHUNK), sd.split(_CHUNK), strict=True)
    return torch.cat([weights @ torch.sigmoid(m + s * z[:, None]) for m, s in parts], dim=1)


def _label_information(p: Tensor, q: Tensor, covariance: Tensor) -> Tensor:
    """I(y; y') of two labels with these probabilities and covariance, in nats, [N].

    A sum over the four outcomes of e h(+-covariance / e), e the probability of the outcome under independence and
    h(u) = (1 + u) log(1 + u) - u >= 0, so that weak dependence does not drown in rounding.
    """
    import torch

    total = torch.zeros_like(p)
    for expected, sign in ((p * q, 1), ((1 - p) * (1 - q), 1), (p * (1 - q), -1), ((1 - p) * q, -1)):
        # The cut series may leave what a probability allows, by its own error: u >= -1 brings it back.
        u = torch.where(expected > 0, sign * covariance / expected, torch.zeros_like(p)).clamp(min=-1.0)
        exact = torch.special.xlog1py(1 + u, u) - u
        series = u.square() * (0.5 - u / 6 + u.square() / 12)
        total += expected * torch.where(u.abs() < 1e-3, series, exact)
    return total
