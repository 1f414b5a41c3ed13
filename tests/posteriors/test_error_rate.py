"""Labels that name the loser now and then: fitted, estimated, and carried to whoever values a label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bgpm import functional as F
from bgpm.errors import NumericsError
from bgpm.fitting.newton import LinearProblem
from bgpm.models.bt import Bt
from bgpm.models.gpm import Gpm
from bgpm.models.pair_mlp import PairMlp
from bgpm.posteriors import load
from bgpm.posteriors.ensemble import Ensemble
from bgpm.posteriors.laplace import Laplace
from bgpm.posteriors.point import Point

FLIPPED = 0.2
SEEDS = range(12)


class Noisy:
    """The loss of labels with errors, as Newton's method wants it."""

    def __init__(self, label, e):
        self.label, self.e = label, e

    def __call__(self, score):
        return F.pairwise_loss(score, self.label, tau=1.0, error_rate=self.e)

    def curvature(self, score):
        return F.fisher_curvature(score, tau=1.0, error_rate=self.e)


def flipped(p, seed, share=FLIPPED):
    """The same problem with this share of its labels wrong."""
    wrong = np.random.default_rng([seed, 9]).random(len(p.data)) < share
    return replace(p, data=replace(p.data, label=np.where(wrong, 1 - p.data.label, p.data.label)))


def cosine(model, p):
    """Between the fitted and the true scores of the test pairs."""
    found = model.moments(p.features, p.test).mean.numpy()
    return found @ p.truth / np.linalg.norm(found) / np.linalg.norm(p.truth)


@pytest.fixture(scope="module")
def fits(problem):
    """Twelve problems of 400 labels, 80 of them wrong, each fitted without, with the true, and with a chosen rate."""
    found = {0.0: [], FLIPPED: [], "heldout": []}
    for seed in SEEDS:
        p = flipped(problem(400, 10, linear=8.0, seed=seed), seed)
        for rate, fitted in found.items():
            model = Point(error_rate=rate).fit(Bt(), p.features, p.data, seed=seed)
            fitted.append((cosine(model, p), model.summary()["error_rate"]))
    return {rate: np.array(fitted) for rate, fitted in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("rate", [FLIPPED, "heldout"])
def test_with_a_fifth_of_the_labels_wrong_the_direction_is_found_better_than_without_an_error_rate(fits, rate):
    gain = fits[rate][:, 0] - fits[0.0][:, 0]
    assert gain.mean() > 4 * gain.std(ddof=1) / len(gain) ** 0.5
    assert gain.mean() > 0.01


def test_the_chosen_error_rate_is_near_the_share_of_wrong_labels(fits):
    assert abs(fits["heldout"][:, 1].mean() - FLIPPED) < 0.04
    assert fits["heldout"][:, 1].min() >= 0.1
    assert fits["heldout"][:, 1].max() <= 0.35


def test_where_no_label_is_wrong_none_is_taken_to_be(problem):
    rates = [
        Point(error_rate="heldout").fit(Bt(), p.features, p.data, seed=0).summary()["error_rate"]
        for p in (problem(600, 6, linear=4.0, seed=seed) for seed in range(4))
    ]
    assert max(rates) <= 0.05


@pytest.mark.parametrize(("n", "p"), [(12, 30), (40, 6), (200, 20)])
@pytest.mark.parametrize("e", [1e-3, 0.1, 0.3])
@pytest.mark.parametrize("precision", [1e-3, 1.0])
def test_newton_ends_in_a_minimum_although_the_problem_is_not_convex(n, p, e, precision):
    generator = torch.Generator().manual_seed(n)
    x = 5 * torch.randn(n, p, generator=generator, dtype=torch.float64)
    label = (torch.rand(n, generator=generator, dtype=torch.float64) < torch.sigmoid(x[:, 0])).double()
    label = torch.where(torch.rand(n, generator=generator) < FLIPPED, 1 - label, label)
    problem = LinearProblem(x, Noisy(label, e))
    weight = problem.solve(precision).weight.requires_grad_()

    def objective(w):
        return Noisy(label, e)(x @ w).sum() + precision / 2 * w.square().sum()

    (gradient,) = torch.autograd.grad(objective(weight), weight)
    assert gradient.abs().max() < 1e-4
    hessian = torch.autograd.functional.hessian(objective, weight.detach())
    assert torch.linalg.eigvalsh(hessian).min() > 0
    folds = [(torch.tensor(np.setdiff1d(np.arange(n), range(k, n, 4))), torch.arange(k, n, 4)) for k in range(4)]
    assert np.isfinite(problem.held_out_loss(folds))
    assert problem.without(folds[0][1]).isfinite().all()


def test_without_a_curvature_of_its_own_such_a_loss_is_an_error():
    x = torch.tensor([[30.0], [30.0], [-1.0]], dtype=torch.float64)
    label = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
    bare = Noisy(label, 0.3).__call__
    problem = LinearProblem(x, bare)
    problem.start = torch.tensor([-0.2], dtype=torch.float64)
    with pytest.raises(NumericsError, match="curvature is not positive"):
        problem.solve(1e-6)
    problem = LinearProblem(x, Noisy(label, 0.3))
    problem.start = torch.tensor([-0.2], dtype=torch.float64)
    assert problem.solve(1e-3).weight.item() > 0


def test_the_laplace_precision_is_the_fisher_information_of_the_labels_as_they_are_given(problem):
    p = flipped(problem(120, 4, linear=4.0), 0)
    model = Laplace(error_rate=0.15, prior_precision=2.0, structure="full").fit(Bt(), p.features, p.data, seed=0)
    x = torch.from_numpy(
        p.features.responses[p.data.pairs.response_a] - p.features.responses[p.data.pairs.response_b]
    ).double()
    score = x @ model.module.weight[0]
    information = F.fisher_weight(score, torch.zeros_like(score), error_rate=0.15)
    precision = x.T @ (information[:, None] * x) + 2.0 * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(model.weights.covariance, torch.linalg.inv(precision), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("settings", [Laplace(error_rate=0.1), Ensemble(error_rate=0.1, members=3)])
def test_the_error_rate_is_kept_with_the_model_and_given_with_the_moments(settings, problem, tmp_path):
    p = flipped(problem(60, 4), 0)
    model = settings.fit(Gpm(dim=4), p.features, p.data, seed=0)
    model.save(tmp_path / "model")
    for either in (model, load(tmp_path / "model")):
        assert either.moments(p.features, p.test).error_rate == 0.1


def test_models_without_a_bradley_terry_block_choose_an_error_rate_too(problem):
    p = flipped(problem(200, 4, linear=8.0), 0)
    for head, precision in ((Gpm(bt_block=False, dim=2), 5.0), (PairMlp(hidden=4), 4.0)):
        settings = Point(prior_precision=precision, error_rate="heldout", folds=2)
        assert 0.05 <= settings.fit(head, p.features, p.data, seed=0).summary()["error_rate"] <= 0.35
