"""Linear models: the minimum, the evidence, the held-out loss, each against a slow reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bgpm import functional as F
from bgpm.errors import NumericsError
from bgpm.fitting.newton import LinearProblem, derivatives


def example(n, p, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(n, p, generator=generator, dtype=torch.float64)
    weight = torch.randn(p, generator=generator, dtype=torch.float64)
    label = (torch.rand(n, generator=generator, dtype=torch.float64) < torch.sigmoid(x @ weight)).double()
    return x, label, lambda score, label=label: F.pairwise_loss(score, label, tau=1.0)


def dense(x, label, precision, anchor=None):
    """Gradient descent's answer, by Newton on all p weights from zero with tiny damping; evidence too."""
    p = x.shape[1]
    centre = torch.zeros(p, dtype=torch.float64) if anchor is None else anchor
    w = centre.clone()
    for _ in range(500):
        prob = torch.sigmoid(x @ w)
        gradient = x.T @ (prob - label) + precision * (w - centre)
        hessian = x.T @ ((prob * (1 - prob))[:, None] * x) + precision * torch.eye(p, dtype=torch.float64)
        w = w - 0.3 * torch.linalg.solve(hessian, gradient)
    loss = F.pairwise_loss(x @ w, label, tau=1.0).sum() + precision / 2 * (w - centre).square().sum()
    return w, (-loss + p / 2 * math.log(precision) - torch.linalg.slogdet(hessian)[1] / 2).item()


@pytest.mark.parametrize(("n", "p"), [(12, 30), (40, 6), (1, 4), (5, 1)])
def test_the_minimum_and_its_evidence_match_a_dense_reference(n, p):
    x, label, loss = example(n, p)
    for precision in (0.1, 3.0):
        fit = LinearProblem(x, loss).solve(precision)
        weight, evidence = dense(x, label, precision)
        torch.testing.assert_close(fit.weight, weight, rtol=1e-5, atol=1e-6)
        assert fit.log_evidence == pytest.approx(evidence, abs=1e-4)


@pytest.mark.parametrize(("n", "p"), [(12, 30), (40, 6)])
def test_an_anchor_moves_the_prior_also_outside_the_labels_span(n, p):
    x, label, loss = example(n, p)
    anchor = torch.randn(p, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    weight, _ = dense(x, label, 0.5, anchor)
    torch.testing.assert_close(LinearProblem(x, loss, anchor=anchor).solve(0.5).weight, weight, rtol=1e-5, atol=1e-6)


def test_undamped_newton_diverges_where_the_damped_one_converges():
    # three labels that agree and one, far out, that does not: at weak priors the full step overshoots for ever
    x = torch.tensor([[1.0], [1.0], [1.0], [-30.0]], dtype=torch.float64)
    label = torch.ones(4, dtype=torch.float64)
    w, precision, path = torch.tensor([1.0], dtype=torch.float64), 1e-6, []
    for _ in range(8):
        prob = torch.sigmoid(x @ w)
        hessian = x.T @ ((prob * (1 - prob))[:, None] * x) + precision
        w = w - torch.linalg.solve(hessian, x.T @ (prob - label) + precision * w)
        path.append(w.abs().item())
    assert max(path) > 1e3
    fit = LinearProblem(x, lambda s: F.pairwise_loss(s, label, tau=1.0)).solve(precision)
    gradient = x.T @ (torch.sigmoid(x @ fit.weight) - label) + precision * fit.weight
    assert fit.weight.abs().item() < 1
    assert gradient.abs().item() < 1e-4


@pytest.mark.parametrize("precision", [1e-8, 1e-3, 10.0])
def test_separable_labels_converge_at_any_prior(precision):
    x, _, _ = example(30, 4, scale=5.0)
    label = (x[:, 0] > 0).double()
    fit = LinearProblem(x, lambda s: F.pairwise_loss(s, label, tau=1.0)).solve(precision)
    gradient = x.T @ (torch.sigmoid(x @ fit.weight) - label) + precision * fit.weight
    assert torch.isfinite(fit.weight).all()
    assert gradient.abs().max() < 1e-3 * max(precision, 1e-3) ** 0.5
    assert (((x @ fit.weight) > 0).double() == label).all()


def test_a_loss_that_is_not_convex_is_an_error_and_not_a_wrong_answer():
    x, _, _ = example(20, 3)
    with pytest.raises(NumericsError, match="curvature is not positive"):
        LinearProblem(x, lambda s: torch.cos(5 * s)).solve(1e-3)


@pytest.mark.parametrize(("n", "p"), [(40, 6), (30, 80)])
def test_leaving_labels_out_by_one_step_is_close_to_refitting(n, p):
    x, label, loss = example(n, p)
    problem = LinearProblem(x, loss)
    problem.solve(2.0)
    held = torch.arange(0, n, 5)
    rest = torch.tensor(np.setdiff1d(np.arange(n), held))
    refit = LinearProblem(x[rest], lambda s: F.pairwise_loss(s, label[rest], tau=1.0)).solve(2.0).weight
    stale = LinearProblem(x, loss).solve(2.0).weight
    error = torch.linalg.norm(problem.without(held) - refit)
    assert error < 0.05 * torch.linalg.norm(refit)
    assert error < 0.3 * torch.linalg.norm(stale - refit)


@pytest.mark.parametrize(("n", "p"), [(40, 6), (30, 80)])
def test_the_held_out_loss_is_that_of_the_weights_without_each_fold(n, p):
    x, _, loss = example(n, p)
    problem = LinearProblem(x, loss)
    problem.solve(0.7)
    splits = [(torch.tensor(np.setdiff1d(np.arange(n), range(k, n, 4))), torch.arange(k, n, 4)) for k in range(4)]
    slow = sum(loss(x @ problem.without(held))[held].sum().item() for _, held in splits)
    assert problem.held_out_loss(splits) == pytest.approx(slow, rel=1e-9)


def test_the_chosen_precision_beats_a_dense_grid():
    x, _, loss = example(60, 10)
    splits = [(torch.tensor(np.setdiff1d(np.arange(60), range(k, 60, 5))), torch.arange(k, 60, 5)) for k in range(5)]
    problem = LinearProblem(x, loss)

    def hyper(precision):
        return (math.log(problem.scale / precision / 4.0) / 2.0) ** 2 / 2

    for choose, worth in (
        (problem.by_evidence, lambda fit: fit.log_evidence),
        (lambda: problem.by_heldout(splits), lambda fit: -problem.held_out_loss(splits)),
    ):
        chosen = choose().precision
        best = max(worth(problem.solve(a)) - hyper(a) for a in np.logspace(-3, 4, 60).tolist())
        assert worth(problem.solve(chosen)) - hyper(chosen) > best - 0.1


def test_after_a_search_labels_are_left_out_at_the_precision_it_chose_and_not_at_the_last_one_it_tried():
    x, _, loss = example(60, 10)
    searched, direct, held = LinearProblem(x, loss), LinearProblem(x, loss), torch.arange(0, 60, 5)
    worths = {1.0: 10.0, 0.25: 9.0, 4.0: 5.0}  # the parabola through them has a peak beside the grid, worth nothing
    chosen = searched._climb(lambda fit: worths.get(fit.precision / (searched.scale / 4), 0.0))
    direct.solve(chosen.precision)
    assert chosen.precision == searched.scale / 4
    torch.testing.assert_close(searched.without(held), direct.without(held), rtol=1e-4, atol=1e-5)


def test_derivatives_are_those_of_the_loss():
    score = torch.linspace(-3, 3, 7, dtype=torch.float64)
    label = torch.tensor([0, 1, 0.5, 0.2, 1, 0, 1], dtype=torch.float64)
    value, first, second = derivatives(lambda s: F.pairwise_loss(s, label, tau=0.7), score)
    prob = torch.sigmoid(score / 0.7)
    torch.testing.assert_close(first, (prob - label) / 0.7)
    torch.testing.assert_close(second, prob * (1 - prob) / 0.7**2)
    torch.testing.assert_close(value, F.pairwise_loss(score, label, tau=0.7))


def test_a_loss_with_saddles_is_minimised_in_a_few_steps_from_wherever_the_last_precision_ended() -> None:
    class Erring:
        def __init__(self, label: torch.Tensor) -> None:
            self.options = {"tau": 1.0, "error_rate": 0.35}
            self.label = label

        def __call__(self, score: torch.Tensor) -> torch.Tensor:
            return F.pairwise_loss(score, self.label, **self.options)

        def curvature(self, score: torch.Tensor) -> torch.Tensor:
            return F.fisher_curvature(score, **self.options)

    generator = torch.Generator().manual_seed(10)  # steps by the sizes of the labels' own curvature never arrive here
    x = 4 * torch.randn(320, 60, generator=generator, dtype=torch.float64)
    weight = torch.randn(60, generator=generator, dtype=torch.float64)
    label = (torch.rand(320, generator=generator, dtype=torch.float64) < torch.sigmoid(x @ weight)).double()
    label = torch.where(torch.rand(320, generator=generator) < 0.3, 1 - label, label)
    problem = LinearProblem(x, Erring(label))
    for precision in (2.6, 10.0, 40.0, 2.6, 0.6, 2.6, 0.1, 2.6):
        found = problem.solve(precision).weight.requires_grad_()
        objective = problem.loss(x @ found).sum() + precision / 2 * found.square().sum()
        (gradient,) = torch.autograd.grad(objective, found)
        assert gradient.norm() < 1e-3
        hessian = torch.autograd.functional.hessian(
            lambda w, a=precision: problem.loss(x @ w).sum() + a / 2 * w.square().sum(), found.detach()
        )
        assert torch.linalg.eigvalsh(hessian).min() > 0
