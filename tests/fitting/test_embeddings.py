"""The published posterior: its moments on and off the sphere, its loss, and its known weakness."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bgpm.errors import NumericsError
from bgpm.fitting.embeddings import DRAWS, AmortizedModel, LogVariance, _mirrored_normal
from bgpm.fitting.tensors import labelled
from bgpm.models.gpm import Gpm
from bgpm.posteriors.amortized import Amortized
from bgpm.types import Comparisons


def untrained(normalize: str, p: int = 5, variance: float = 0.5, seed: int = 0) -> AmortizedModel:
    head = Gpm(dim=4, bt_block=False, normalize=normalize)
    generator = torch.Generator().manual_seed(seed)
    log_variance = LogVariance(p, 4, generator=generator)
    with torch.no_grad():
        log_variance.bias.fill_(math.log(variance))
    return AmortizedModel(head, head.build(p, generator=generator), log_variance, p, 0.1, {})


def test_the_defaults_are_the_published_settings():
    settings = Amortized()
    assert (settings.tau, settings.prior_variance, settings.kl_weight, settings.mixing) == (0.1, 0.03, 0.002, 0.4)


def test_on_the_sphere_moments_are_those_of_projected_draws_and_not_the_ambient_formula(problem):
    p = problem(20, 5, tests=30)
    model = untrained("sphere")
    moments = model.moments(p.features, p.test)
    n = 40_000
    drawn = model.sample(p.features, p.test, n, generator=torch.Generator().manual_seed(1))
    error = (drawn.var(0) - moments.variance).abs() / moments.variance
    assert error.max() < 0.01 + 5 * (2 / n) ** 0.5
    assert (
        (drawn.mean(0) - moments.mean).abs() < 5 * (moments.variance / n).sqrt() + 0.01 * moments.variance.sqrt()
    ).all()
    ambient = untrained("mean").moments(p.features, p.test)
    ratio = ambient.variance / moments.variance
    assert ratio.median() > 1.3
    assert drawn.abs().max() <= 1 + 1e-12  # two unit vectors


@pytest.mark.parametrize("normalize", ["none", "mean"])
def test_off_the_sphere_the_closed_form_is_exact(normalize, problem):
    p = problem(20, 5, tests=10)
    model, n = untrained(normalize), 60_000
    moments = model.moments(p.features, p.test)
    drawn = model.sample(p.features, p.test, n, generator=torch.Generator().manual_seed(1))
    squares = (drawn - drawn.mean(0)).square()
    assert ((drawn.mean(0) - moments.mean).abs() < 5 * (moments.variance / n).sqrt()).all()
    assert ((drawn.var(0) - moments.variance).abs() < 5 * squares.std(0) / n**0.5).all()


def test_an_answers_embedding_is_the_same_draw_in_all_its_pairs(problem):
    p = problem(20, 5, tests=10)
    pairs = p.test.take(np.array([0, 0, 1]))
    drawn = untrained("none").sample(p.features, pairs, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    back = untrained("none").sample(p.features, pairs.swapped(), 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, -back)


@pytest.mark.parametrize("dim", [2, 6, 12])
def test_quasi_random_normals_have_the_moments_of_normals(dim):
    z = _mirrored_normal(dim)
    assert z.shape == (DRAWS, dim)
    assert z.mean(0).abs().max() < 1e-12
    assert (z.T @ z / len(z) - torch.eye(dim, dtype=torch.float64)).abs().max() < 0.05
    assert (z.pow(4).mean(0) - 3).abs().max() < 0.4


def test_the_training_loss_is_the_mixed_likelihood_and_the_divergence_of_the_variance(problem):
    p = problem(20, 5)
    model = untrained("none", variance=0.2)
    data = labelled(p.features, p.data, prompts=False, margins=False)
    with torch.no_grad():
        model.log_variance.weight.zero_()
    settings = Amortized(mixing=0.0, prior_variance=0.05)
    noise = torch.randn(2, 20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score = model.module(data.response_a, data.response_b) / settings.tau
    likelihood = torch.nn.functional.binary_cross_entropy_with_logits(score, data.label)
    one = 0.5 * 4 * (0.2 / 0.05 - 1 - math.log(0.2 / 0.05))
    got = model.training_loss(settings, data, 0.3, noise)
    assert got.item() == pytest.approx((likelihood + 0.3 * 2 * one).item(), rel=1e-10)
    noisy = model.training_loss(Amortized(mixing=1.0), data, 0.0, noise)
    still = model.training_loss(Amortized(mixing=0.0), data, 0.0, noise)
    assert noisy.item() != still.item()


def test_its_variance_does_not_shrink_where_labels_are(problem):
    """The weakness of a variance that is read off the features: twenty times the labels, no less of it."""
    p = problem(400, 5, linear=2.0)
    head, settings = Gpm(dim=4, bt_block=False, normalize="mean"), Amortized(steps=120)
    few = Comparisons(p.data.pairs.take(np.arange(20)), p.data.label[:20])
    variances = [
        settings.fit(head, p.features, data, seed=0).moments(p.features, few.pairs).variance.mean()
        for data in (few, p.data)
    ]
    assert variances[1] > 0.5 * variances[0]


def test_training_that_diverges_is_reported(problem):
    p = problem(20, 5)
    with pytest.raises(NumericsError, match=r"learning_rate|finite"):
        Amortized(learning_rate=1e6, steps=50).fit(Gpm(bt_block=False), p.features, p.data, seed=0)
