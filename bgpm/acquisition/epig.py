r"""Expected predictive information gain (Bickford Smith et al., arXiv:2304.08151).

The value of a pair is what its label would tell about the labels of *other* pairs, not about the weights:

    EPIG(n) = mean over targets t != n of I(y_n; y_t),

with targets a sample of the unlabelled candidates themselves, never of held-out or benchmark pairs. A pair is not
its own target: else the sampled pairs would have an advantage over the others.

The scores of two pairs are jointly Gaussian with correlation r from the pair kernel, so the two labels have
probabilities p_n = E sigmoid(x_n), p_t = E sigmoid(x_t) and covariance (Mehler's formula)

    Cov(y_n, y_t) = sum_{k >= 1} r^k c_k(n) c_k(t),    c_k = E[sigmoid(mu + sd z) He_k(z)] / sqrt(k!),  z ~ N(0, 1).

The coefficients are computed once a pair by the trapezoid rule, and a target costs one kernel row and O(N).
For a wide score the sigmoid is a step in z, c_k falls like k^-3/4 only, and for near copies r^k does not help: cut
after 16 terms the covariance would be 5% short. So the sigmoid is split into Phi(x / 1.702), whose covariance is an
integral over the angle arcsin r (Plackett, Biometrika 41, 1954), and a small smooth rest, whose series is cut. The
relative error of the covariance is below 1e-8 for sd <= 1 whatever r is, and below 1e-6 for |r| <= 0.5 whatever sd is;
for near copies, |r| = 0.99, it is at most 0.3% up to sd = 20.
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
_NODES = 12
_PROBIT = 1.702  # the scale at which Phi(x / c) is closest to the sigmoid
_CHUNK = 1 << 13  # pairs whose integrands are held at once: 24 MiB


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
        mean, _ = moments(candidates)
        variance = kernel.diagonal().to(mean)
        # Every pair is turned so that its first response is the likely loser: then a pair and its swap are one.
        turn = torch.where(mean > 0, -1.0, 1.0).to(mean)
        probability = F.expected_probability(-mean.abs(), variance, candidates.tau)
        said = candidates.error_rate + (1 - 2 * candidates.error_rate) * probability
        sd = variance.sqrt()
        mu = -mean.abs() / candidates.tau
        sigmoid = _hermite_coefficients(mu, sd / candidates.tau)
        step, threshold, share = _step_coefficients(mu, sd / candidates.tau)
        sample = np.argsort(uniform_by_key(candidates.keys, generator), kind="stable")[: self.targets]
        total = torch.zeros_like(mean)
        for t in sample.tolist():
            scale = sd * sd[t]
            correlation = torch.where(scale > 0, turn * turn[t] * kernel.row(t) / scale, torch.zeros_like(scale))
            _refuse_impossible(correlation, t, candidates.keys)
            covariance = torch.zeros_like(mean)
            for c, s in zip(sigmoid.flip(0), step.flip(0), strict=True):  # Horner's rule
                covariance = correlation * (covariance + (c * c[t] - s * s[t]))
            covariance += _step_covariance(threshold, threshold[t], correlation * (share * share[t]))
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


def _step_coefficients(mu: Tensor, sd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of Phi((mu + sd z) / 1.702): its coefficients, [16, N], and the h and share with which it is 1[u < h] on average.

    E Phi((mu + sd z) / 1.702) = Phi(h), and Phi of two scores with correlation r have the covariance of two normal
    variables below their h, correlated by r share share'.
    """
    import torch

    width = (_PROBIT**2 + sd.square()).sqrt()
    h, share = mu / width, sd / width
    scaled = share * torch.exp(-0.5 * h.square()) / math.sqrt(2 * math.pi)
    before, coefficients = torch.zeros_like(h), [scaled]
    for k in range(1, _TERMS):  # c_k = share^k phi(h) He_(k-1)(-h) / sqrt(k!)
        following = (-h * share * coefficients[-1] - (k - 1) / math.sqrt(k) * share.square() * before) / math.sqrt(
            k + 1
        )
        before = coefficients[-1]
        coefficients.append(following)
    return torch.stack(coefficients), h, share


def _step_covariance(h: Tensor, k: Tensor, correlation: Tensor) -> Tensor:
    """P(u < h, v < k) - P(u < h) P(v < k) of standard normal u, v with these correlations, [N]; k is one number."""
    import torch

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    # Above 1 by the rounding of a kernel's rows at most: `_refuse_impossible`.
    angle = torch.asin(correlation.clamp(-1, 1))
    total, squares, product = torch.zeros_like(h), h.square() + k.square(), 2 * h * k
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        sine = torch.sin(angle * ((node + 1) / 2))
        total += weight * torch.exp(-0.5 * (squares - product * sine) / (1 - sine.square()))
    return total * angle / (4 * math.pi)


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
