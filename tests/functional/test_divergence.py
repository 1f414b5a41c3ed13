"""The divergence of embeddings from their prior, against torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from bgpm import functional as F
from bgpm.errors import NumericsError, ShapeError


def test_it_is_the_divergence_between_gaussians_of_one_mean_summed_over_coordinates() -> None:
    generator = torch.Generator().manual_seed(0)
    log_variance = torch.randn(4, 3, 6, generator=generator, dtype=torch.float64)
    mean = torch.randn(4, 3, 6, generator=generator, dtype=torch.float64)
    ours = F.variance_kl(log_variance, 0.03)
    theirs = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(mean, math.sqrt(0.03))).sum(-1)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        F.variance_kl(log_variance, torch.tensor(0.03, dtype=torch.float64)), theirs, rtol=1e-12, atol=0
    )


def test_it_is_zero_at_the_prior_alone() -> None:
    at = torch.full((2, 6), math.log(0.03), dtype=torch.float64)
    assert torch.equal(F.variance_kl(at, 0.03), torch.zeros(2, dtype=torch.float64))
    assert (F.variance_kl(at + 1e-4, 0.03) > 0).all()
    # 1/4 t^2 for a small log-ratio t, without cancellation
    assert F.variance_kl(at[:, :1] + 1e-6, 0.03).tolist() == pytest.approx([2.5e-13] * 2, rel=1e-3)


def test_its_gradient_draws_the_variance_to_the_prior() -> None:
    log_variance = torch.tensor([[-1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    F.variance_kl(log_variance, 1.0).sum().backward()
    torch.testing.assert_close(log_variance.grad, 0.5 * (log_variance.detach().exp() - 1))


@pytest.mark.parametrize(
    ("log_variance", "prior", "error", "says"),
    [
        (torch.zeros(()), 1.0, ShapeError, "got a scalar"),
        (torch.zeros(2, 4), 0.0, NumericsError, "prior_variance must be finite and > 0"),
        (torch.zeros(2, 4), torch.ones(4), ShapeError, "expected one prior_variance"),
        (torch.full((2, 4), torch.nan), 1.0, NumericsError, "log_variance must be finite"),
        (torch.full((2, 4), 1e4), 1.0, NumericsError, "divergence must be finite, got inf"),
    ],
)
def test_an_argument_that_cannot_be_right_is_refused_by_name(log_variance, prior, error, says) -> None:
    with pytest.raises(error, match=says):
        F.variance_kl(log_variance, prior)
