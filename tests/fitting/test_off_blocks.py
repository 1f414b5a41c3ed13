"""What switched-off blocks leave open, against Monte Carlo over blocks and a dense Gaussian process."""

from __future__ import annotations

import numpy as np
import torch

from bgpm.fitting.off_blocks import DIRECTIONS, off_blocks
from bgpm.fitting.tensors import LabelledTensors
from bgpm.models.bt import Bt
from bgpm.models.gpm import Gpm
from bgpm.posteriors.laplace import Laplace
from bgpm.types import Features, Pairs


def labelled(n, p, seed=0):
    generator = torch.Generator().manual_seed(seed)
    response_a, response_b = (torch.randn(n, p, generator=generator, dtype=torch.float64) for _ in range(2))
    return LabelledTensors(response_a, response_b, None, torch.ones(n, dtype=torch.float64), None, np.arange(n))


def made(data, curvature, variance):
    return off_blocks(data, curvature, variance, generator=torch.Generator().manual_seed(0))


def wedge_kernel(x, y):
    """<x_n ^ y_n, x_m ^ y_m> for all pairs, by whole matrices x y' - y x'."""
    skew = torch.einsum("np,nq->npq", x, y) - torch.einsum("np,nq->npq", y, x)
    return torch.einsum("npq,mpq->nm", skew, skew) / 2


def test_before_any_label_it_is_the_field_of_random_blocks():
    data = labelled(6, 20)
    field = made(data, torch.zeros(6, dtype=torch.float64), 0.3)
    generator = torch.Generator().manual_seed(1)
    n = 200_000
    alpha = (2 / field.scale) ** 0.5  # P, Q ~ N(0, I / alpha) give 2 / alpha^2 times the wedge product's kernel
    p, q = (torch.randn(n, 20, generator=generator, dtype=torch.float64) / alpha**0.5 for _ in range(2))
    scores = (p @ data.response_a.T) * (q @ data.response_b.T) - (p @ data.response_b.T) * (q @ data.response_a.T)
    products = scores[:, :, None] * scores[:, None, :]
    rows = field.block(data.response_a, data.response_b, data.response_a, data.response_b)
    assert ((products.mean(0) - rows).abs() < 5 * products.std(0) / n**0.5).all()
    torch.testing.assert_close(rows.diagonal(), field.variance(data.response_a, data.response_b))
    assert (
        field.variance(data.response_a, data.response_b).mean().item() == 0.3
        or abs(field.variance(data.response_a, data.response_b).mean().item() - 0.3) < 1e-12
    )


def test_labels_condition_it_like_a_gaussian_process_within_its_directions():
    p = DIRECTIONS  # all directions: nothing is left outside
    data, new = labelled(30, p), labelled(7, p, seed=3)
    curvature = torch.rand(30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    field = made(data, curvature, 1.7)
    x, y = torch.cat([data.response_a, new.response_a]), torch.cat([data.response_b, new.response_b])
    prior = field.scale * wedge_kernel(x, y)
    known = prior[:30, :30] + torch.diag(1 / curvature)
    expected = prior[30:, 30:] - prior[30:, :30] @ torch.linalg.solve(known, prior[:30, 30:])
    rows = field.block(new.response_a, new.response_b, new.response_a, new.response_b)
    torch.testing.assert_close(rows, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(
        field.variance(new.response_a, new.response_b), expected.diagonal(), rtol=1e-8, atol=1e-10
    )


def test_more_labels_never_widen_it_and_never_go_below_the_exact_posterior():
    p = DIRECTIONS + 6
    data, new = labelled(60, p), labelled(9, p, seed=3)
    none = made(data, torch.zeros(60, dtype=torch.float64), 1.0).variance(new.response_a, new.response_b)
    some = made(data, torch.full((60,), 0.2, dtype=torch.float64), 1.0).variance(new.response_a, new.response_b)
    scale = made(data, torch.zeros(60, dtype=torch.float64), 1.0).scale
    x, y = torch.cat([data.response_a, new.response_a]), torch.cat([data.response_b, new.response_b])
    prior = scale * wedge_kernel(x, y)
    known = prior[:60, :60] + 5 * torch.eye(60, dtype=torch.float64)
    exact = (prior[60:, 60:] - prior[60:, :60] @ torch.linalg.solve(known, prior[:60, 60:])).diagonal()
    assert (some < none).all()
    assert (some > exact).all()


def test_draws_have_its_covariance():
    data, new = labelled(20, DIRECTIONS + 3), labelled(4, DIRECTIONS + 3, seed=3)
    field = made(data, torch.full((20,), 0.2, dtype=torch.float64), 1.0)
    n = 100_000
    drawn = field.evaluate(field.draw(n, generator=torch.Generator().manual_seed(4)), new.response_a, new.response_b)
    products = drawn[:, :, None] * drawn[:, None, :]
    rows = field.block(new.response_a, new.response_b, new.response_a, new.response_b)
    assert ((products.mean(0) - rows).abs() < 5 * products.std(0) / n**0.5).all()
    assert (drawn.mean(0).abs() < 5 * drawn.std(0) / n**0.5).all()


def test_parallel_answers_leave_nothing_open():
    data = labelled(5, 6)
    parallel = LabelledTensors(data.response_a, 2 * data.response_a, None, data.label, None, data.group)
    assert made(parallel, torch.ones(5, dtype=torch.float64), 1.0) is None


def test_acquisition_still_sees_cyclic_directions_before_a_block_is_on(problem):
    """Two pairs whose difference is the same, one of parallel answers and one of answers far from parallel."""
    p = problem(60, 8, linear=3.0)
    rng = np.random.default_rng(0)
    delta, aside = rng.standard_normal((2, 8))
    aside *= 4 / np.linalg.norm(aside)
    responses = np.stack([delta, 0 * delta, delta + aside, aside]).astype(np.float32)
    extra = Features(np.concatenate([p.features.responses, responses]), p.features.prompts)
    at = len(p.features.responses)
    pairs = Pairs(np.array([at, at + 2]), np.array([at + 1, at + 3]), np.zeros(2, np.int64))
    model = Laplace().fit(Gpm(), extra, p.data, seed=0)
    assert model.summary()["blocks_active"] == 0
    parallel, cyclic = model.moments(extra, pairs).variance.tolist()
    assert cyclic > parallel + 0.05
    for blind in (
        Laplace().fit(Bt(), extra, p.data, seed=0),
        Laplace(off_variance=0.0).fit(Gpm(), extra, p.data, seed=0),
    ):
        parallel, cyclic = blind.moments(extra, pairs).variance.tolist()
        assert abs(cyclic - parallel) < 1e-4 * parallel
