"""Cyclic blocks: the trap at zero, the way out of it, and that only cyclic labels open it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bgpm.fitting.cyclic_blocks import FoundBlocks, enough, leading_pairs, module_of, refine, scores
from bgpm.fitting.lbfgs import minimise
from bgpm.fitting.map import PairLoss
from bgpm.fitting.tensors import labelled
from bgpm.models.gpm import Gpm
from bgpm.posteriors.laplace import Laplace
from bgpm.posteriors.point import Point

loss = PairLoss(Point(), 1.0)


def tensors(problem):
    return labelled(problem.features, problem.data, prompts=False, margins=False)


def dense_g(data, residual):
    return sum(
        e * (torch.outer(x, y) - torch.outer(y, x))
        for e, x, y in zip(residual, data.response_a, data.response_b, strict=True)
    )


def test_the_leading_pairs_are_the_singular_pairs_of_g(problem):
    data = tensors(problem(200, 12, linear=0.5, cyclic=4.0))
    residual = data.label - 0.5
    g = dense_g(data, residual)
    values = torch.linalg.svdvals(g)
    pairs = leading_pairs(data, residual, 2, generator=torch.Generator().manual_seed(0))
    assert pairs[0].value == pytest.approx(values[0].item(), rel=1e-6)
    assert pairs[1].value == pytest.approx(values[2].item(), rel=2e-2)
    torch.testing.assert_close(
        g @ pairs[0].right, pairs[0].value * pairs[0].left, rtol=1e-3, atol=1e-3 * values[0].item()
    )
    assert abs((pairs[0].left @ pairs[0].right).item()) < 1e-10
    slow = torch.stack(
        [
            x @ (torch.outer(pairs[0].left, pairs[0].right) - torch.outer(pairs[0].right, pairs[0].left)) @ y
            for x, y in zip(data.response_a, data.response_b, strict=True)
        ]
    )
    torch.testing.assert_close(pairs[0].wedge(data), slow)


@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_a_block_starts_by_moving_scores_by_one_logit(problem, tau):
    data = tensors(problem(200, 6, linear=0.0, cyclic=3.0))
    pair = leading_pairs(data, data.label - 0.5, 1, generator=torch.Generator().manual_seed(0))[0]
    moved = scores(torch.cat([torch.zeros(1, 6), pair.start(data, tau)]), data)
    assert moved.square().mean().sqrt().item() == pytest.approx(tau)


@pytest.mark.parametrize(("share", "stays"), [(1.05, True), (0.8, False)])
def test_zero_is_a_minimum_exactly_where_the_precision_exceeds_sigma_one(problem, share, stays):
    data = tensors(problem(200, 6, linear=0.0, cyclic=3.0))
    pair = leading_pairs(data, data.label - 0.5, 1, generator=torch.Generator().manual_seed(0))[0]
    module = module_of(torch.cat([torch.zeros(1, 6), 1e-3 * torch.stack([pair.left, pair.right])]))
    minimise(
        module,
        data,
        loss,
        {"weight": torch.tensor([[1e9], [share * pair.value], [share * pair.value]])},
        tolerance=1e-12,
    )
    assert (module.weight[1:].norm() < 1e-3).item() == stays


def test_at_zero_a_block_has_no_gradient_and_no_variance(problem):
    data = tensors(problem(50, 6))
    module = module_of(torch.zeros(3, 6, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss(module(data.response_a, data.response_b), data).sum(), module.weight)
    assert torch.count_nonzero(gradient[1:]) == 0
    assert torch.count_nonzero(module.design(data.response_a, data.response_b).gradients()[:, 6:]) == 0


@pytest.mark.parametrize("posterior", [Laplace(), Point()])
def test_planted_cycles_switch_one_block_on_from_zero(problem, posterior):
    p = problem(400, 12, linear=0.0, cyclic=3.0)
    model = posterior.fit(Gpm(), p.features, p.data, seed=0)
    assert model.summary()["blocks_active"] >= 1
    assert model.summary()["block_screen"] > 5
    assert p.accuracy(model) > 0.8


def test_a_reward_and_a_cycle_are_learnt_together(problem):
    p = problem(600, 12, linear=3.0, cyclic=3.0)
    with_blocks = Laplace().fit(Gpm(), p.features, p.data, seed=0)
    without = Laplace().fit(Gpm(dim=2), p.features, p.data, seed=0)
    assert with_blocks.summary()["blocks_active"] >= 1
    assert p.accuracy(with_blocks) > p.accuracy(without) + 0.1


def test_transitive_labels_keep_every_block_off(problem):
    active = [
        Laplace().fit(Gpm(), p.features, p.data, seed=seed).summary()["blocks_active"]
        for seed in range(12)
        for p in [problem(200, 12, linear=2.0, seed=100 + seed)]
    ]
    assert sum(np.array(active) > 0) <= 1  # the screen alone lets 2.3% of null problems pass


def test_the_rewards_prior_is_chosen_again_on_what_the_blocks_leave(problem):
    data = tensors(problem(60, 5, linear=2.0, cyclic=2.0))
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = FoundBlocks(weight, torch.tensor([7.0, 30.0, 30.0], dtype=torch.float64), 3.0, (0.1,))
    seen = []

    def choose(problem):
        seen.append(problem.offset)
        return problem.solve(3.0)

    module, priors = refine(Gpm(), data, loss, found, choose)
    u, v = data.response_a @ weight.T, data.response_b @ weight.T
    torch.testing.assert_close(seen[0], u[:, 1] * v[:, 2] - u[:, 2] * v[:, 1])
    assert priors["weight"][:, 0].tolist() == [3.0, 30.0, 30.0]
    (slope,) = torch.autograd.grad(loss(module(data.response_a, data.response_b), data).sum(), module.weight)
    assert (slope + priors["weight"] * module.weight).abs().max() < 0.05  # a minimum of all rows together


def test_no_more_blocks_than_asked_for_are_switched_on(problem):
    p = problem(400, 12, linear=0.0, cyclic=3.0)
    for dim in (2, 4):
        summary = Laplace().fit(Gpm(dim=dim), p.features, p.data, seed=0).summary()
        assert summary["blocks_possible"] == dim // 2 - 1
        assert summary["blocks_active"] == dim // 2 - 1


def test_gates_are_fitted_once_a_block_is_on(problem):
    p = problem(400, 8, linear=2.0, cyclic=3.0)
    model = Laplace().fit(Gpm(prompt_gates=True), p.features, p.data, seed=0)
    assert model.summary()["blocks_active"] >= 1
    assert model.module.gate_weight.abs().max() > 1e-4
    assert p.accuracy(model) > 0.75


def test_enough_folds_are_a_thousand_held_out_labels():
    split = [(torch.arange(1600), torch.arange(400))] * 5
    assert len(enough(split)) == 3
    assert len(enough(split[:2])) == 2
    assert enough([]) == []


def test_the_gradient_that_lbfgs_uses_is_that_of_its_objective(problem):
    """A minimum of loss plus prior, checked by finite differences around it."""
    data = tensors(problem(60, 5, cyclic=2.0))
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    module, alpha = module_of(weight), torch.tensor([[2.0], [5.0], [9.0]], dtype=torch.float64)
    centre = torch.linspace(-1, 1, 15, dtype=torch.float64)
    minimise(module, data, loss, {"weight": alpha}, centre=centre, tolerance=1e-14)

    def objective(at):
        penalty = (alpha * (at - centre.view(3, 5)).square()).sum() / 2
        return (loss(module_of(at)(data.response_a, data.response_b), data).sum() + penalty).item()

    best = module.weight.detach()
    lowest = objective(best)
    for k in range(15):
        for step in (-1e-3, 1e-3):
            moved = best.clone()
            moved.view(-1)[k] += step
            assert objective(moved) > lowest - 1e-9
