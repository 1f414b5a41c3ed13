"""Forms of the Laplace covariance against the dense inverse, and draws against the form."""

from __future__ import annotations

import pytest
import torch

from bgpm import functional as F
from bgpm.errors import NumericsError
from bgpm.fitting import covariances
from bgpm.networks import Design

FORMS = ["full", "low_rank", "kronecker"]


def example(rows: int, n: int = 25, q: int = 4):
    generator = torch.Generator().manual_seed(rows)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    design = Design(normal(n, rows), normal(n, q), normal(n, rows), normal(n, q))
    curvature = torch.rand(n, generator=generator, dtype=torch.float64) / 4
    precision = torch.rand(rows, generator=generator, dtype=torch.float64) + 0.5
    return design, curvature, precision


def dense(design, curvature, precision):
    g = torch.stack(
        [
            torch.cat([a_r * x + b_r * y for a_r, b_r in zip(a, b, strict=True)])
            for a, x, b, y in zip(design.a, design.x, design.b, design.y, strict=True)
        ]
    )
    hessian = sum(c * torch.outer(row, row) for c, row in zip(curvature, g, strict=True))
    return torch.linalg.inv(hessian + torch.diag(precision.repeat_interleave(design.x.shape[1]))), g


def matrix_of(posterior, design):
    """The covariance that a form means, [P, P], from its kernel rows against unit gradients."""
    rows, q = design.a.shape[1], design.x.shape[1]
    a = torch.eye(rows, dtype=torch.float64).repeat_interleave(q, 0)
    x = torch.eye(q, dtype=torch.float64).repeat(rows, 1)
    kernel = F.LinearisedKernel(a, torch.zeros_like(a), (x, torch.zeros_like(x)), None, posterior)
    return torch.stack([kernel.row(j) for j in range(rows * q)])


@pytest.mark.parametrize(
    ("form", "rows"), [("full", 1), ("full", 3), ("low_rank", 1), ("low_rank", 3), ("kronecker", 1)]
)
def test_exact_forms_are_the_dense_inverse(form, rows):
    design, curvature, precision = example(rows)
    expected, g = dense(design, curvature, precision)
    posterior = covariances.make(form, design, curvature, precision)
    torch.testing.assert_close(matrix_of(posterior, design), expected, rtol=1e-9, atol=1e-11)
    kernel = F.LinearisedKernel(design.a, design.b, (design.x, design.y), None, posterior)
    torch.testing.assert_close(kernel.diagonal(), ((g @ expected) * g).sum(-1), rtol=1e-9, atol=1e-11)


def divergence(covariance, exact):
    """KL(N(0, covariance) || N(0, exact)) in nats."""
    return 0.5 * (
        torch.trace(torch.linalg.solve(exact, covariance))
        - len(exact)
        - torch.linalg.slogdet(covariance)[1]
        + torch.linalg.slogdet(exact)[1]
    )


def test_no_product_nearby_has_a_lower_divergence_than_the_kronecker_form():
    design, curvature, precision = example(3)
    exact, _ = dense(design, curvature, precision)
    best = covariances.make("kronecker", design, curvature, precision)
    torch.testing.assert_close(
        matrix_of(best, design), torch.kron(best.output_cov, best.input_cov), rtol=1e-12, atol=1e-14
    )
    lowest = divergence(torch.kron(best.output_cov, best.input_cov), exact)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        left, right = (
            torch.eye(len(m), dtype=torch.float64)
            + 0.05 * torch.randn(len(m), len(m), generator=generator, dtype=torch.float64)
            for m in (best.output_cov, best.input_cov)
        )
        other = torch.kron(left @ best.output_cov @ left.T, right @ best.input_cov @ right.T)
        assert divergence(other, exact) > lowest


@pytest.mark.parametrize("form", FORMS)
def test_draws_have_the_covariance_of_the_form(form):
    design, curvature, precision = example(2, n=10, q=3)
    posterior = covariances.make(form, design, curvature, precision)
    n = 40_000
    drawn = covariances.draw(posterior, n, generator=torch.Generator().manual_seed(0)).flatten(1)
    expected = matrix_of(posterior, design)
    # Var[x y] = S_ii S_jj + S_ij^2 for Gaussians
    error = ((torch.outer(expected.diagonal(), expected.diagonal()) + expected.square()) / n).sqrt()
    assert ((drawn.T @ drawn / n - expected).abs() < 5 * error).all()
    assert drawn.mean(0).abs().max() < 5 * (expected.diagonal().max() / n) ** 0.5


@pytest.mark.parametrize("form", FORMS)
def test_what_is_saved_is_what_is_restored(form):
    design, curvature, precision = example(2)
    posterior = covariances.make(form, design, curvature, precision)
    name, saved = covariances.tensors(posterior)
    assert name == form
    assert torch.equal(matrix_of(covariances.restore(name, saved), design), matrix_of(posterior, design))
    assert all(value.is_contiguous() for value in saved.values())


@pytest.mark.parametrize(
    ("labels", "rows", "inputs", "form"),
    [
        (32, 1, 256, "low_rank"),
        (300, 1, 256, "full"),
        (300, 5, 256, "low_rank"),
        (5000, 5, 384, "full"),
        (5000, 6, 4096, "kronecker"),
    ],
)
def test_the_smaller_exact_form_is_chosen_and_kronecker_where_neither_is_small(labels, rows, inputs, form):
    assert covariances.choose("auto", labels, rows, inputs) == form
    assert covariances.choose("kronecker", labels, rows, inputs) == "kronecker"


def test_a_negative_curvature_is_refused():
    design, curvature, precision = example(2)
    with pytest.raises(NumericsError, match="convex"):
        covariances.make("full", design, curvature - 1, precision)
