"""Posterior of cyclic blocks that are switched off: cyclic preferences that no label has shown yet.

A cyclic block adds w(phi_i, phi_j) = P'(phi_i phi_j' - phi_j phi_i')Q to the score. At zero its linearised
variance is zero, so that acquisition would never look where it could be switched on. Its exact second-order
variance is not: with P, Q ~ N(0, I / alpha) the score is a random field with mean 0 and covariance
2 / alpha^2 <phi_i ^ phi_j, phi_k ^ phi_l>, with the wedge product's inner product

    <x ^ y, u ^ v> = (x'u)(y'v) - (x'v)(y'u).

The prior is scaled to a stated variance at the average labelled pair, and conditioned on the labels as a
Gaussian field: exactly for the part of the wedge product within the q leading directions of the labelled
features, not at all outside them, which overstates what is still open there. Posterior correlation with
the reward is left out.

Shapes: N pairs, p features, q directions, m = q (q - 1) / 2 wedge coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bgpm.fitting.cyclic_blocks import leading_subspace
from bgpm.fitting.tensors import LabelledTensors

DIRECTIONS = 12


@dataclass(frozen=True)
class OffBlocks:
    """Gaussian field over pairs, odd in their responses.

    Attributes:
        scale: kappa, prior covariance of two pairs over the inner product of their wedge products, [].
        directions: [q, p], orthonormal rows.
        covariance: [m, m], posterior covariance of the field's weights on wedge coordinates.
    """

    scale: Tensor
    directions: Tensor
    covariance: Tensor

    def variance(self, response_a: Tensor, response_b: Tensor) -> Tensor:
        """Variance of every pair's cyclic score, [N]."""
        seen = self.coordinates(response_a, response_b)
        # the part outside the directions is a squared length: below zero by rounding only
        outside = (_wedge_product(response_a, response_b, response_a, response_b) - seen.square().sum(-1)).clamp_min(0)
        return self.scale * outside + ((seen @ self.covariance) * seen).sum(-1)

    def block(self, response_a: Tensor, response_b: Tensor, other_first: Tensor, other_second: Tensor) -> Tensor:
        """Covariance of n pairs with m others, [n, m], from the features of their responses, [n, p] and [m, p]."""
        seen, other = self.coordinates(response_a, response_b), self.coordinates(other_first, other_second)
        straight = (response_a @ other_first.T) * (response_b @ other_second.T)
        whole = straight - (response_a @ other_second.T) * (response_b @ other_first.T)
        return self.scale * (whole - seen @ other.T) + seen @ (self.covariance @ other.T)

    def draw(self, n: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n draws of the field: [n, m] weights inside, and [n, 2, p] vectors P, Q for the part outside."""
        root = torch.linalg.cholesky(self.covariance)
        inside = torch.randn(n, len(root), generator=generator, dtype=torch.float64) @ root.T
        outside = torch.randn(n, 2, self.directions.shape[1], generator=generator, dtype=torch.float64)
        return inside, outside * (self.scale / 2) ** 0.25

    def evaluate(self, drawn: tuple[Tensor, Tensor], response_a: Tensor, response_b: Tensor) -> Tensor:
        """The drawn fields at every pair, [n, N]."""
        inside, outside = drawn
        projected = (outside @ self.directions.T) @ self.directions
        return (
            inside @ self.coordinates(response_a, response_b).T
            + _forms(outside, response_a, response_b)
            - _forms(projected, response_a, response_b)
        )

    def coordinates(self, response_a: Tensor, response_b: Tensor) -> Tensor:
        """Wedge product of both responses within the directions, [N, m]."""
        x, y = response_a @ self.directions.T, response_b @ self.directions.T
        low, high = torch.triu_indices(len(self.directions), len(self.directions), 1)
        return x[..., low] * y[..., high] - x[..., high] * y[..., low]


def off_blocks(
    data: LabelledTensors, curvature: Tensor, variance: float, *, generator: torch.Generator
) -> OffBlocks | None:
    """The field after these labels; None where no labelled pair could be cyclic (all have parallel features).

    Args:
        data: Labelled pairs.
        curvature: Second derivative of each label's loss in its score, [N].
        variance: Prior variance at the average labelled pair, in units of the score squared.
        generator: Draws the starting subspace.
    """
    size = _wedge_product(data.response_a, data.response_b, data.response_a, data.response_b).mean()
    if size <= 1e-12 * data.response_a.square().sum(-1).mean() * data.response_b.square().sum(-1).mean():
        return None
    scale = variance / size

    def second_moment(q: Tensor) -> Tensor:
        return data.response_a.T @ (data.response_a @ q) + data.response_b.T @ (data.response_b @ q)

    basis = leading_subspace(second_moment, data.response_a.shape[1], DIRECTIONS, generator=generator).T.contiguous()
    prior = OffBlocks(scale, basis, torch.empty(0, dtype=torch.float64))
    seen = prior.coordinates(data.response_a, data.response_b)
    precision = seen.T @ (curvature[:, None] * seen)
    precision.diagonal().add_(1 / scale)
    covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
    return OffBlocks(scale, basis, ((covariance + covariance.T) / 2).contiguous())


def _wedge_product(x: Tensor, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return (x * u).sum(-1) * (y * v).sum(-1) - (x * v).sum(-1) * (y * u).sum(-1)


def _forms(vectors: Tensor, response_a: Tensor, response_b: Tensor) -> Tensor:
    p, q = vectors[:, 0], vectors[:, 1]
    return (p @ response_a.T) * (q @ response_b.T) - (q @ response_a.T) * (p @ response_b.T)
