r"""Covariance of two labels under a Gaussian posterior of their scores.

The scores of two pairs are jointly Gaussian with correlation r, so the two labels have probabilities
p_n = E sigmoid(x_n), p_t = E sigmoid(x_t) and covariance (Mehler's formula)

    Cov(y_n, y_t) = sum_{k >= 1} r^k c_k(n) c_k(t),    c_k = E[sigmoid(mu + sd z) He_k(z)] / sqrt(k!),  z ~ N(0, 1).

The coefficients are computed once a pair by the trapezoid rule.
For a wide score the sigmoid is a step in z, c_k falls like k^-3/4 only, and for near copies r^k does not help: cut
after 16 terms the covariance would be 5% short. So the sigmoid is split into Phi(x / 1.702), whose covariance is an
integral over the angle arcsin r (Plackett, Biometrika 41, 1954), and a small smooth rest, whose series is cut. The
relative error of the covariance is below 1e-8 for sd <= 1 whatever r is, and below 1e-6 for |r| <= 0.5 whatever sd is;
for near copies, |r| = 0.99, it is at most 0.3% up to sd = 20.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bgpm import functional as F
from bgpm.acquisition._moments import moments
from bgpm.errors import NumericsError
from bgpm.types import Candidates, PairKernel

if TYPE_CHECKING:
    from torch import Tensor

_TERMS = 16
_NODES = 12
_PROBIT = 1.702  # the scale at which Phi(x / c) is closest to the sigmoid
_CHUNK = 1 << 13  # pairs whose integrands are held at once: 24 MiB


@dataclass(frozen=True)
class Labels:
    """The label of each pair, float64: which response is better, and what an annotator says.

    Every pair is turned so that its first response is the likely loser: then a pair and its swap are one, to the bit.

    Attributes:
        probability: E sigmoid(x) of the likely loser, [N].
        said: Probability that an annotator names the likely loser, e + (1 - 2 e) times that, [N].
        certain: 1 - 2 e: covariances with what is said are so much smaller than with what is better.
        turn: -1 where the pair is turned, else 1, [N].
        sd: Of the score, before division by tau, [N].
        sigmoid, step: c_1 .. c_16 of the sigmoid and of Phi(x / 1.702), [16, N].
        threshold, share: As `_step_coefficients` says, [N].
        keys: Of the pairs, for messages.
    """

    probability: Tensor
    said: Tensor
    certain: float
    turn: Tensor
    sd: Tensor
    sigmoid: Tensor
    step: Tensor
    threshold: Tensor
    share: Tensor
    keys: np.ndarray

    @classmethod
    def of(cls, candidates: Candidates, kernel: PairKernel) -> Labels:
        """Of the candidates, with the kernel's variances."""
        import torch

        mean, _ = moments(candidates)
        variance = kernel.diagonal().to(mean)
        sd, mu = variance.sqrt(), -mean.abs() / candidates.tau
        probability = F.expected_probability(-mean.abs(), variance, candidates.tau)
        certain = 1 - 2 * candidates.error_rate
        return cls(
            probability,
            candidates.error_rate + certain * probability,
            certain,
            torch.where(mean > 0, -1.0, 1.0).to(mean),
            sd,
            _hermite_coefficients(mu, sd / candidates.tau),
            *_step_coefficients(mu, sd / candidates.tau),
            candidates.keys,
        )

    def covariance(self, of_scores: Tensor, rows: Tensor | slice, columns: Tensor) -> Tensor:
        """Cov(y_n, y_t) of which responses are better, from the covariance of the scores; shapes are broadcast.

        Args:
            of_scores: Before division by tau squared, in the pairs' own order of responses.
            rows, columns: Numbers of the pairs, int64; a slice is quicker.

        Raises:
            NumericsError: If a correlation is not in [-1, 1]; names the two pairs.
        """
        import torch

        scale = self.sd[rows] * self.sd[columns]
        turned = self.turn[rows] * self.turn[columns] * of_scores
        correlation = torch.where(scale > 0, turned / scale, torch.zeros_like(scale))
        self._refuse_impossible(correlation, rows, columns)
        covariance = torch.zeros_like(correlation)
        # Turned round once taken: of all pairs' coefficients it would take as long as there are pairs.
        taken = (table[:, some].flip(0) for table in (self.sigmoid, self.step) for some in (rows, columns))
        for c, d, s, t in zip(*taken, strict=True):
            covariance = correlation * (covariance + (c * d - s * t))  # Horner's rule
        shared = correlation * (self.share[rows] * self.share[columns])
        return covariance + _step_covariance(self.threshold[rows], self.threshold[columns], shared)

    def _refuse_impossible(self, correlation: Tensor, rows: Tensor | slice, columns: Tensor) -> None:
        import torch

        if not correlation.numel():
            return
        worst = correlation.abs().argmax()
        value = correlation.flatten()[worst].item()
        if not abs(value) <= 1 + 1e-6:
            sides = torch.broadcast_tensors(torch.arange(len(self.sd))[rows], columns)
            one, other = (self.keys[int(side.flatten()[worst])] for side in sides)
            raise NumericsError(
                f"covariance of pairs {one!r} and {other!r}: expected a correlation in [-1, 1], got {value}; "
                "the kernel's rows and its diagonal contradict each other"
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
    """P(u < h, v < k) - P(u < h) P(v < k) of standard normal u, v with these correlations; broadcast."""
    import torch

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    # Above 1 by the rounding of a kernel's rows at most: `Labels`.
    angle = torch.asin(correlation.clamp(-1, 1))
    total, squares, product = torch.zeros_like(angle), h.square() + k.square(), 2 * h * k
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        sine = torch.sin(angle * ((node + 1) / 2))
        total += weight * torch.exp(-0.5 * (squares - product * sine) / (1 - sine.square()))
    return total * angle / (4 * math.pi)
