"""Covariance between pairs against dense Jacobians made by automatic differentiation."""

from __future__ import annotations

import pytest
import torch

from bgpm import functional as F
from bgpm.errors import NumericsError, ShapeError
from bgpm.functional import kernel as module

N, D, P, LABELS = 9, 6, 5, 12
FREE = (0, 2, 3)  # rows of W that are uncertain in the tests with `rows`


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(size: int, seed: int) -> torch.Tensor:
    root = draw(size, size, seed=seed)
    return root @ root.T / size


def jacobian(weights, phi_i, phi_j, gates) -> torch.Tensor:
    """Gradient of every score in W, flattened row by row, [N, D P], by automatic differentiation."""

    def scores(w: torch.Tensor) -> torch.Tensor:
        v_i, v_j = phi_i @ w.T, phi_j @ w.T
        return (gates * (v_i[:, 0::2] * v_j[:, 1::2] - v_i[:, 1::2] * v_j[:, 0::2])).sum(-1)

    return torch.autograd.functional.jacobian(scores, weights).flatten(1)


class World:
    """Pairs, labelled pairs, one posterior of each kind, and its dense covariance over the uncertain weights."""

    def __init__(self, rows: tuple[int, ...] | None) -> None:
        r = D if rows is None else len(rows)
        self.weights, self.phi = draw(D, P, seed=1), draw(11, P, seed=2)
        generator = torch.Generator().manual_seed(3)
        self.response_a, self.response_b = (torch.randint(11, (N,), generator=generator) for _ in range(2))
        self.phi_i, self.phi_j = self.phi[self.response_a], self.phi[self.response_b]
        self.gates = 0.5 + draw(N, D // 2, seed=4).abs()
        kept = torch.zeros(D, P, dtype=torch.bool)
        kept[list(range(D) if rows is None else rows)] = True
        self.kept = kept.flatten()
        self.jacobian = jacobian(self.weights, self.phi_i, self.phi_j, self.gates)[:, self.kept]

        full = covariance(r * P, seed=5)
        u, v = covariance(r, seed=6), covariance(P, seed=7)
        prior = 0.1 + draw(r, P, seed=8).abs()
        x, y, weight = draw(LABELS, P, seed=9), draw(LABELS, P, seed=10), draw(LABELS, seed=11).abs()
        gates = 0.5 + draw(LABELS, D // 2, seed=12).abs()
        labelled = jacobian(self.weights, x, y, gates)[:, self.kept]
        precision = torch.diag(1 / prior.flatten()) + labelled.T @ (weight[:, None] * labelled)
        low = F.LowRankPosterior.from_labels(
            prior, x @ self.weights.T, y @ self.weights.T, x, y, weight, gates=gates, rows=rows
        )
        self.posteriors = {
            "full": (F.FullPosterior(full, rows), full),
            "kronecker": (F.KroneckerPosterior(u, v, rows), torch.kron(u, v)),
            "low_rank": (low, torch.linalg.inv(precision)),
        }

    def kernel(self, posterior, indexed: bool = False) -> F.LinearisedKernel:
        if indexed:
            mean = self.phi @ self.weights.T
            return F.indexed_pair_kernel(mean, self.phi, self.response_a, self.response_b, posterior, self.gates)
        means = self.phi_i @ self.weights.T, self.phi_j @ self.weights.T
        return F.pair_kernel(*means, self.phi_i, self.phi_j, posterior, self.gates)


KINDS = ["full", "kronecker", "low_rank"]


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("rows", [None, FREE])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_diagonal_are_those_of_the_dense_jacobian(kind: str, rows, indexed: bool) -> None:
    world = World(rows)
    posterior, dense = world.posteriors[kind]
    expected = world.jacobian @ dense @ world.jacobian.T
    kernel = world.kernel(posterior, indexed)
    assert len(kernel) == N
    torch.testing.assert_close(kernel.diagonal(), expected.diagonal(), rtol=1e-10, atol=1e-12)
    for j in range(N):
        torch.testing.assert_close(kernel.row(j), expected[j], rtol=1e-9, atol=1e-11)
    some, others = torch.tensor([7, 2, 2, 0]), torch.tensor([5, 8, 2])
    torch.testing.assert_close(kernel.block(some, others), expected[some][:, others], rtol=1e-9, atol=1e-11)
    assert kernel.block(some, others[:0]).shape == (4, 0)
    assert kernel.block(some[:0], others).shape == (0, 3)


def test_a_kronecker_posterior_is_the_covariance_of_row_major_weights() -> None:
    u, v = covariance(2, seed=1), covariance(3, seed=2)
    draws = torch.linalg.cholesky(u) @ draw(200_000, 2, 3, seed=3) @ torch.linalg.cholesky(v).T
    flat = draws.flatten(1)
    sampled = flat.T @ flat / len(flat)
    assert (sampled - torch.kron(u, v)).abs().max() < 0.03
    world = {"mean_i": draw(4, 2, seed=4), "mean_j": draw(4, 2, seed=5), "phi_i": draw(4, 3, seed=6)}
    one = F.pair_kernel(**world, phi_j=draw(4, 3, seed=7), posterior=F.KroneckerPosterior(u, v))
    two = F.pair_kernel(**world, phi_j=draw(4, 3, seed=7), posterior=F.FullPosterior(torch.kron(u, v)))
    torch.testing.assert_close(one.row(2), two.row(2))


def test_the_kernel_is_the_covariance_of_sampled_scores_when_the_posterior_is_narrow() -> None:
    world, scale, count = World(None), 1e-8, 40_000
    _, dense = world.posteriors["full"]
    kernel = world.kernel(F.FullPosterior(scale * dense))
    noise = draw(count, D * P, seed=20) @ torch.linalg.cholesky(scale * dense).T
    sampled = world.weights + noise.view(count, D, P)
    scores = F.preference_score(world.phi_i @ sampled.mT, world.phi_j @ sampled.mT, world.gates)
    centred = scores - scores.mean(0)
    for j in range(N):
        products = centred * centred[:, j, None]
        assert ((products.mean(0) - kernel.row(j)).abs() <= 4.5 * products.std(0) / count**0.5).all()


def test_the_variance_is_blind_to_changes_of_the_weights_that_leave_every_score() -> None:
    weights, phi_i, phi_j = draw(2, P, seed=1), draw(N, P, seed=2), draw(N, P, seed=3)
    turn = (torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64) @ weights).flatten()  # rotation of a block
    other = draw(2 * P, seed=4)
    means = phi_i @ weights.T, phi_j @ weights.T
    blind = F.pair_kernel(*means, phi_i, phi_j, F.FullPosterior(torch.outer(turn, turn))).diagonal()
    seen = F.pair_kernel(*means, phi_i, phi_j, F.FullPosterior(torch.outer(other, other))).diagonal()
    assert (blind <= 1e-13 * seen.max()).all()
    assert seen.max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_swapping_one_pair_flips_the_sign_of_its_covariances_only(kind: str) -> None:
    world = World(None)
    posterior, _ = world.posteriors[kind]
    before = torch.stack([world.kernel(posterior).row(j) for j in range(N)])
    diagonal = world.kernel(posterior).diagonal()
    world.phi_i[3], world.phi_j[3] = world.phi_j[3].clone(), world.phi_i[3].clone()
    after = torch.stack([world.kernel(posterior).row(j) for j in range(N)])
    sign = torch.ones(N, dtype=torch.float64)
    sign[3] = -1
    torch.testing.assert_close(after, sign[:, None] * before * sign, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(world.kernel(posterior).diagonal(), diagonal, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_bound_the_temporaries_and_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(None)
    posterior, _ = world.posteriors[kind]
    whole = world.kernel(posterior)
    expected = whole.diagonal(), whole.row(4)
    limit = 3 * posterior.entries(D, P)
    monkeypatch.setattr(module, "_CHUNK", limit)
    sizes, variance = [], type(posterior).variance

    def watched(self, a, b, phi_i, phi_j):
        sizes.append(len(a))
        return variance(self, a, b, phi_i, phi_j)

    monkeypatch.setattr(type(posterior), "variance", watched)
    kernel = world.kernel(posterior)
    torch.testing.assert_close(kernel.diagonal(), expected[0], rtol=1e-14, atol=0)
    torch.testing.assert_close(kernel.row(4), expected[1], rtol=1e-13, atol=1e-14)
    monkeypatch.setattr(module, "_CHUNK", 4 * 3 * D)  # four rows of three columns at a time
    monkeypatch.setattr(module, "_KEPT", 1)  # and one column is remembered
    block = kernel.block(torch.arange(N), torch.tensor([4, 4, 0]))
    torch.testing.assert_close(block[:, 0], expected[1], rtol=1e-13, atol=1e-14)
    assert list(kernel._seen) == [0]
    assert sizes == [3, 3, 3]


@pytest.mark.parametrize("indexed", [False, True])
def test_single_precision_features_are_used_in_the_precision_of_the_posterior(indexed: bool, monkeypatch) -> None:
    world = World(None)
    posterior, _ = world.posteriors["full"]
    world.phi, world.phi_i, world.phi_j = (t.float().double() for t in (world.phi, world.phi_i, world.phi_j))
    expected = world.kernel(posterior, indexed)
    rows = expected.diagonal(), expected.row(2)
    narrow = world.phi.float(), world.phi_i.float(), world.phi_j.float()
    means = world.phi @ world.weights.T, world.phi_i @ world.weights.T, world.phi_j @ world.weights.T
    monkeypatch.setattr(module, "_CONVERTED", 4 * P)  # several chunks of conversion
    if indexed:
        kernel = F.indexed_pair_kernel(means[0], narrow[0], world.response_a, world.response_b, posterior, world.gates)
    else:
        kernel = F.pair_kernel(means[1], means[2], narrow[1], narrow[2], posterior, world.gates)
    assert kernel.row(2).dtype == torch.float64
    torch.testing.assert_close(kernel.diagonal(), rows[0], rtol=1e-13, atol=0)
    torch.testing.assert_close(kernel.row(2), rows[1], rtol=1e-12, atol=1e-13)


def test_a_low_rank_posterior_without_labels_is_its_prior() -> None:
    none = torch.empty(0, D, dtype=torch.float64), torch.empty(0, P, dtype=torch.float64)
    prior = 0.1 + draw(D, P, seed=8).abs()
    posterior = F.LowRankPosterior.from_labels(prior, none[0], none[0], none[1], none[1], torch.empty(0).double())
    world = World(None)
    expected = world.jacobian.square() @ prior.flatten()
    torch.testing.assert_close(world.kernel(posterior).diagonal(), expected)
    assert world.kernel(posterior).row(0)[0].item() == pytest.approx(expected[0].item())


MEAN, PHI = draw(N, D), draw(N, P)
FULL = F.FullPosterior(covariance(D * P, seed=1))
ROWS = torch.arange(N)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: F.FullPosterior(draw(4, 5)), ShapeError, r"covariance to be square, got \[4, 5\]"),
        (lambda: F.FullPosterior(draw(4, 4).abs()), NumericsError, "covariance must be symmetric"),
        (lambda: F.FullPosterior(-covariance(4, 1)), NumericsError, "diagonal of covariance must be >= 0"),
        (lambda: F.FullPosterior(covariance(4, 1) / 0), NumericsError, "covariance must be finite"),
        (lambda: F.KroneckerPosterior(draw(4), covariance(4, 1)), ShapeError, "output_cov to be square"),
        (lambda: F.KroneckerPosterior(covariance(4, 1), draw(3, 4)), ShapeError, "input_cov to be square"),
        (lambda: F.pair_kernel(MEAN, MEAN, PHI, PHI[:, 1:], FULL), ShapeError, "phi_i .* phi_j"),
        (lambda: F.pair_kernel(MEAN, MEAN, PHI[1:], PHI[1:], FULL), ShapeError, r"features \[9, p\], got \[8, 5\]"),
        (lambda: F.pair_kernel(MEAN, MEAN, PHI[:, 1:], PHI[:, 1:], FULL), ShapeError, "6 x 4 weights"),
        (lambda: F.pair_kernel(MEAN[:, 1:], MEAN[:, 1:], PHI, PHI, FULL), ShapeError, "D even"),
        (lambda: F.pair_kernel(MEAN[None], MEAN[None], PHI, PHI, FULL), ShapeError, r"embeddings \[N, D\]"),
        (lambda: F.pair_kernel(MEAN / 0, MEAN, PHI, PHI, FULL), NumericsError, "mean_i must be finite"),
        (lambda: F.pair_kernel(MEAN, MEAN, PHI, PHI / 0, FULL), NumericsError, "features .* must be finite"),
        (lambda: F.pair_kernel(MEAN, MEAN, PHI, PHI, FULL).row(N), ShapeError, r"0\.\.8, got 9"),
        (lambda: F.pair_kernel(MEAN, MEAN, PHI, PHI, FULL).row(-1), ShapeError, r"0\.\.8, got -1"),
        (
            lambda: F.pair_kernel(MEAN, MEAN, PHI, PHI, F.KroneckerPosterior(covariance(4, 1), covariance(P, 1))),
            ShapeError,
            "W has 6 uncertain rows",
        ),
        (
            lambda: F.pair_kernel(MEAN, MEAN, PHI, PHI, F.FullPosterior(covariance(2 * P, 1), rows=(0, 6))),
            ShapeError,
            r"distinct rows in 0\.\.5",
        ),
        (
            lambda: F.pair_kernel(MEAN, MEAN, PHI, PHI, F.FullPosterior(covariance(2 * P, 1), rows=(1, 1))),
            ShapeError,
            r"distinct rows in 0\.\.5",
        ),
        (lambda: F.indexed_pair_kernel(MEAN, PHI, ROWS, ROWS + 1, FULL), ShapeError, "response_b from 1 to 9"),
        (lambda: F.indexed_pair_kernel(MEAN, PHI, ROWS, ROWS.int(), FULL), ShapeError, "response_b int64"),
        (lambda: F.indexed_pair_kernel(MEAN, PHI[1:], ROWS, ROWS, FULL), ShapeError, "one row for each response"),
        (
            lambda: F.LowRankPosterior.from_labels(draw(D, P).abs(), MEAN, MEAN, PHI, PHI, -draw(N).abs()),
            NumericsError,
            "weight must be >= 0",
        ),
        (
            lambda: F.LowRankPosterior.from_labels(draw(D, P).abs(), MEAN, MEAN, PHI, PHI, draw(N - 1).abs()),
            ShapeError,
            "one weight for each labelled pair",
        ),
        (
            lambda: F.LowRankPosterior.from_labels(draw(3, P).abs(), MEAN, MEAN, PHI, PHI, draw(N).abs()),
            ShapeError,
            r"prior_variance \[6, 5\], got \[3, 5\]",
        ),
        (
            lambda: F.LowRankPosterior.from_labels(torch.zeros(D, P), MEAN, MEAN, PHI, PHI, draw(N).abs()),
            NumericsError,
            "prior variances > 0, got 0.0",
        ),
        (
            lambda: F.LowRankPosterior.from_labels(draw(P).abs(), MEAN, MEAN, PHI, PHI, draw(N).abs()),
            ShapeError,
            "prior_variance",
        ),
        (
            lambda: F.LowRankPosterior(draw(P).abs(), MEAN, MEAN, PHI, PHI, covariance(N, 1)),
            ShapeError,
            r"prior_variance \[r, p\], got \[5\]",
        ),
        (
            lambda: F.LowRankPosterior(draw(D, P).abs(), MEAN, MEAN, PHI, PHI[1:], covariance(N, 1)),
            ShapeError,
            r"phi_j \[9, 5\], got \[8, 5\]",
        ),
    ],
)
def test_an_argument_that_cannot_be_right_is_refused_by_name(call, error, says) -> None:
    with pytest.raises(error, match=says):
        call()
