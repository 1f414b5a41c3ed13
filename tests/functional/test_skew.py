"""The score and its moments against explicit matrices, Isserlis' theorem and Monte Carlo."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bgpm import functional as F
from bgpm.errors import NumericsError, ShapeError

N, D = 7, 6


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def positive(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 + draw(*shape, seed=seed).abs()


def covariance(*shape: int, size: int, seed: int = 0) -> torch.Tensor:
    root = draw(*shape, size, size, seed=seed)
    return root @ root.mT / size


def matrix_a(gates: torch.Tensor) -> torch.Tensor:
    """A with s = v_i' A v_j, entry by entry."""
    a = torch.zeros(2 * len(gates), 2 * len(gates), dtype=torch.float64)
    for block, gate in enumerate(gates):
        a[2 * block, 2 * block + 1] = gate
        a[2 * block + 1, 2 * block] = -gate
    return a


def isserlis_moments(a: torch.Tensor, mean: torch.Tensor, cov: torch.Tensor) -> tuple[float, float]:
    """Mean and variance of x_i' A x_j for x = (x_i, x_j) ~ N(mean, cov), from fourth moments, entry by entry."""
    d = len(a)
    pairs = [(r, d + s, a[r, s].item()) for r in range(d) for s in range(d) if a[r, s] != 0]

    def second(x: int, y: int) -> float:
        return (cov[x, y] + mean[x] * mean[y]).item()

    def fourth(w: int, x: int, y: int, z: int) -> float:
        m, c = mean, cov
        total = m[w] * m[x] * m[y] * m[z]
        for (p, q), (r, s) in (((w, x), (y, z)), ((w, y), (x, z)), ((w, z), (x, y))):
            total = total + c[p, q] * c[r, s] + c[p, q] * m[r] * m[s] + m[p] * m[q] * c[r, s]
        return total.item()

    first = sum(v * second(x, y) for x, y, v in pairs)
    square = sum(v * w * fourth(x, y, r, s) for (x, y, v), (r, s, w) in itertools.product(pairs, pairs))
    return first, square - first**2


def within_standard_error(samples: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> None:
    """Samples [S, N] have these moments, to 4.5 standard errors (one false alarm in 10,000 runs of 10 numbers)."""
    count = len(samples)
    centred = samples - samples.mean(0)
    assert ((samples.mean(0) - mean).abs() < 4.5 * (variance / count).sqrt()).all()
    error = (centred.pow(4).mean(0) - centred.square().mean(0).square()).sqrt() / count**0.5
    assert ((centred.square().mean(0) - variance).abs() < 4.5 * error).all()


def test_the_score_is_the_bilinear_form_of_the_gated_skew_matrix() -> None:
    v_i, v_j, gates = draw(N, D, seed=1), draw(N, D, seed=2), positive(N, D // 2, seed=3)
    expected = [v_i[n] @ matrix_a(gates[n]) @ v_j[n] for n in range(N)]
    torch.testing.assert_close(F.preference_score(v_i, v_j, gates), torch.stack(expected), rtol=0, atol=1e-14)


def test_the_score_of_two_named_vectors_is_the_oriented_area() -> None:
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert F.preference_score(east, north).item() == 1.0
    assert F.preference_score(2 * north, east).item() == -2.0


def test_bradley_terry_is_the_score_of_rewards_beside_a_constant() -> None:
    r_i, r_j = draw(N, seed=1), draw(N, seed=2)
    ones = torch.ones(N, dtype=torch.float64)
    score = F.preference_score(torch.stack((r_i, ones), -1), torch.stack((r_j, ones), -1))
    torch.testing.assert_close(score, r_i - r_j, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@given(seed=st.integers(0, 2**31), blocks=st.integers(1, 20), gated=st.booleans())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_swapping_the_answers_negates_every_bit_of_the_score(
    dtype: torch.dtype, seed: int, blocks: int, gated: bool
) -> None:
    v_i, v_j, gates = (draw(5, n, seed=seed + k, dtype=dtype) for k, n in enumerate((2 * blocks, 2 * blocks, blocks)))
    gates = gates if gated else None
    assert torch.equal(F.preference_score(v_i, v_j, gates), -F.preference_score(v_j, v_i, gates))


def test_apply_skew_is_the_gradient_in_the_first_embedding_and_its_negative_in_the_second() -> None:
    v_i, v_j = draw(N, D, seed=1).requires_grad_(), draw(N, D, seed=2).requires_grad_()
    gates = positive(N, D // 2, seed=3)
    first, second = torch.autograd.grad(F.preference_score(v_i, v_j, gates).sum(), (v_i, v_j))
    torch.testing.assert_close(F.apply_skew(v_j, gates), first, rtol=0, atol=1e-15)
    torch.testing.assert_close(-F.apply_skew(v_i, gates), second, rtol=0, atol=1e-15)


@pytest.mark.parametrize("gated", [False, True])
def test_independent_moments_match_isserlis(gated: bool) -> None:
    gates = positive(N, D // 2, seed=5) if gated else torch.ones(N, D // 2, dtype=torch.float64)
    m_i, m_j, s_i, s_j = draw(N, D, seed=1), draw(N, D, seed=2), positive(N, D, seed=3), positive(N, D, seed=4)
    mean, variance = F.score_moments(m_i, s_i, m_j, s_j, gates if gated else None)
    for n in range(N):
        cov = torch.diag(torch.cat((s_i[n], s_j[n])))
        expected = isserlis_moments(matrix_a(gates[n]), torch.cat((m_i[n], m_j[n])), cov)
        assert mean[n].item() == pytest.approx(expected[0], abs=1e-12)
        assert variance[n].item() == pytest.approx(expected[1], rel=1e-12)


def test_independent_moments_match_monte_carlo() -> None:
    m_i, m_j, s_i, s_j = draw(N, D, seed=1), draw(N, D, seed=2), positive(N, D, seed=3), positive(N, D, seed=4)
    gates = positive(N, D // 2, seed=5)
    v_i = m_i + s_i.sqrt() * draw(40_000, N, D, seed=6)
    v_j = m_j + s_j.sqrt() * draw(40_000, N, D, seed=7)
    samples = F.preference_score(v_i, v_j, gates)
    within_standard_error(samples, *F.score_moments(m_i, s_i, m_j, s_j, gates))


def test_swapping_the_answers_negates_the_mean_and_keeps_the_variance_bit_for_bit() -> None:
    m_i, m_j, s_i, s_j = draw(N, D, seed=1), draw(N, D, seed=2), positive(N, D, seed=3), positive(N, D, seed=4)
    gates = positive(N, D // 2, seed=5)
    mean, variance = F.score_moments(m_i, s_i, m_j, s_j, gates)
    swapped_mean, swapped_variance = F.score_moments(m_j, s_j, m_i, s_i, gates)
    assert torch.equal(mean, -swapped_mean)
    assert torch.equal(variance, swapped_variance)
    cov_i, cov_j, cov_ij = covariance(N, size=D, seed=6), covariance(N, size=D, seed=7), 0.1 * draw(N, D, D, seed=8)
    joint = F.joint_score_moments(m_i, m_j, 4 * cov_i, 4 * cov_j, cov_ij, gates)
    swapped = F.joint_score_moments(m_j, m_i, 4 * cov_j, 4 * cov_i, cov_ij.mT, gates)
    assert torch.equal(joint[0], -swapped[0])
    torch.testing.assert_close(joint[1], swapped[1], rtol=1e-14, atol=0)


def test_gates_enter_the_variance_squared() -> None:
    m_i, m_j, s_i, s_j = draw(N, D, seed=1), draw(N, D, seed=2), positive(N, D, seed=3), positive(N, D, seed=4)
    tripled = F.score_moments(m_i, s_i, m_j, s_j, torch.full((D // 2,), 3.0, dtype=torch.float64))
    plain = F.score_moments(m_i, s_i, m_j, s_j)
    torch.testing.assert_close(tripled[0], 3 * plain[0])
    torch.testing.assert_close(tripled[1], 9 * plain[1])


@pytest.mark.parametrize("gated", [False, True])
def test_joint_moments_match_isserlis(gated: bool) -> None:
    gates = positive(N, D // 2, seed=5) if gated else torch.ones(N, D // 2, dtype=torch.float64)
    m_i, m_j, cov = draw(N, D, seed=1), draw(N, D, seed=2), covariance(N, size=2 * D, seed=3)
    blocks = cov[:, :D, :D], cov[:, D:, D:], cov[:, :D, D:]
    mean, variance = F.joint_score_moments(m_i, m_j, *blocks, gates if gated else None)
    for n in range(N):
        expected = isserlis_moments(matrix_a(gates[n]), torch.cat((m_i[n], m_j[n])), cov[n])
        assert mean[n].item() == pytest.approx(expected[0], rel=1e-11, abs=1e-12)
        assert variance[n].item() == pytest.approx(expected[1], rel=1e-11)


def test_joint_moments_match_monte_carlo() -> None:
    m, cov, gates = draw(N, 2 * D, seed=1), covariance(N, size=2 * D, seed=2), positive(N, D // 2, seed=3)
    v = m + (torch.linalg.cholesky(cov) @ draw(40_000, N, 2 * D, 1, seed=4)).squeeze(-1)
    samples = F.preference_score(v[..., :D], v[..., D:], gates)
    blocks = cov[:, :D, :D], cov[:, D:, D:], cov[:, :D, D:]
    within_standard_error(samples, *F.joint_score_moments(m[:, :D], m[:, D:], *blocks, gates))


def test_joint_moments_of_independent_diagonal_embeddings_are_the_independent_ones() -> None:
    m_i, m_j, s_i, s_j = draw(N, D, seed=1), draw(N, D, seed=2), positive(N, D, seed=3), positive(N, D, seed=4)
    zero = torch.zeros(N, D, D, dtype=torch.float64)
    joint = F.joint_score_moments(m_i, m_j, torch.diag_embed(s_i), torch.diag_embed(s_j), zero)
    for ours, theirs in zip(joint, F.score_moments(m_i, s_i, m_j, s_j), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("gated", [False, True])
def test_last_layer_variance_is_the_joint_one_with_kronecker_blocks(gated: bool) -> None:
    gates = positive(N, D // 2, seed=5) if gated else None
    m_i, m_j, u, k = draw(N, D, seed=1), draw(N, D, seed=2), covariance(size=D, seed=3), covariance(N, size=2, seed=4)
    k_ii, k_jj, k_ij = k[:, 0, 0], k[:, 1, 1], k[:, 0, 1]
    blocks = (s[:, None, None] * u for s in (k_ii, k_jj, k_ij))
    mean, variance = F.joint_score_moments(m_i, m_j, *blocks, gates)
    torch.testing.assert_close(F.last_layer_score_variance(m_i, m_j, k_ii, k_jj, k_ij, u, gates), variance)
    torch.testing.assert_close(F.preference_score(m_i, m_j, gates), mean, rtol=0, atol=1e-12)


def test_last_layer_variance_matches_monte_carlo_over_weights() -> None:
    p, gates = 3, positive(N, D // 2, seed=6)
    weights, phi_i, phi_j = draw(D, p, seed=1), draw(N, p, seed=2), draw(N, p, seed=3)
    u, v = covariance(size=D, seed=4), covariance(size=p, seed=5)
    # rows of W correlate through U, columns through V: Cov(vec W) = V (x) U with columns stacked
    sampled = weights + torch.linalg.cholesky(u) @ draw(40_000, D, p, seed=7) @ torch.linalg.cholesky(v).T
    samples = F.preference_score(phi_i @ sampled.mT, phi_j @ sampled.mT, gates)
    k_ii, k_jj, k_ij = (((x @ v) * y).sum(-1) for x, y in ((phi_i, phi_i), (phi_j, phi_j), (phi_i, phi_j)))
    m_i, m_j = phi_i @ weights.T, phi_j @ weights.T
    variance = F.last_layer_score_variance(m_i, m_j, k_ii, k_jj, k_ij, u, gates)
    within_standard_error(samples, F.preference_score(m_i, m_j, gates), variance)


def test_last_layer_variance_of_two_identical_answers_is_zero_where_independence_says_otherwise() -> None:
    m, k = draw(N, D, seed=1), positive(N, seed=2)
    eye = torch.eye(D, dtype=torch.float64)
    shared = F.last_layer_score_variance(m, m, k, k, k, eye)
    apart = F.score_moments(m, k[:, None].expand(N, D), m, k[:, None].expand(N, D))[1]
    torch.testing.assert_close(shared, torch.zeros_like(k), rtol=0, atol=1e-12)
    assert (shared >= 0).all()
    assert (apart > 0.1).all()


def test_any_batch_shape_gives_what_a_flat_batch_gives() -> None:
    m_i, m_j, s_i, s_j = draw(6, D, seed=1), draw(6, D, seed=2), positive(6, D, seed=3), positive(6, D, seed=4)
    gates = positive(6, D // 2, seed=5)
    flat = F.score_moments(m_i, s_i, m_j, s_j, gates)
    folded = F.score_moments(*(t.view(2, 3, -1) for t in (m_i, s_i, m_j, s_j, gates)))
    for ours, theirs in zip(folded, flat, strict=True):
        assert torch.equal(ours, theirs.view(2, 3))
    one = F.score_moments(m_i[0], s_i[0], m_j[0], s_j[0], gates[0])
    assert one[0].shape == ()
    assert one[1].item() == pytest.approx(flat[1][0].item(), rel=1e-15)


OK = {"mean": draw(N, D), "var": positive(N, D), "cov": covariance(N, size=D), "k": positive(N)}


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: F.preference_score(draw(N, 5), draw(N, 5)), ShapeError, r"D even, got \[7, 5\]"),
        (lambda: F.preference_score(draw(N, 0), draw(N, 0)), ShapeError, "D even"),
        (lambda: F.preference_score(draw(N, D), draw(1, D)), ShapeError, r"v_i \[7, 6\], v_j \[1, 6\]"),
        (lambda: F.preference_score(draw(N, D), draw(N, D), draw(N, D)), ShapeError, "gates are per block"),
        (
            lambda: F.preference_score(draw(N, D), draw(N, D) / 0),
            NumericsError,
            r"score must be finite, got .* at \[0\]",
        ),
        (lambda: F.score_moments(OK["mean"], -OK["var"], OK["mean"], OK["var"]), NumericsError, "var_i must be >= 0"),
        (lambda: F.score_moments(OK["mean"], OK["var"], OK["mean"], OK["var"] * 1e400), NumericsError, "finite"),
        (
            lambda: F.joint_score_moments(OK["mean"], OK["mean"], OK["cov"], OK["cov"][0], OK["cov"]),
            ShapeError,
            r"cov_j \[7, 6, 6\], got \[6, 6\]",
        ),
        (
            lambda: F.joint_score_moments(OK["mean"], OK["mean"], draw(N, D, D).abs(), OK["cov"], OK["cov"]),
            NumericsError,
            "cov_i must be symmetric",
        ),
        (
            lambda: F.joint_score_moments(OK["mean"], OK["mean"], -OK["cov"], OK["cov"], OK["cov"]),
            NumericsError,
            "diagonal of cov_i must be >= 0",
        ),
        (
            # a^T C b is far below zero for C = -10 a b^T, which no covariance of these marginals allows
            lambda: F.joint_score_moments(
                *(OK["mean"], draw(N, D, seed=9), 1e-3 * OK["cov"], 1e-3 * OK["cov"]),
                10 * F.apply_skew(draw(N, D, seed=9))[:, :, None] * F.apply_skew(OK["mean"])[:, None, :],
            ),
            NumericsError,
            "not positive semi-definite",
        ),
        (
            lambda: F.last_layer_score_variance(
                OK["mean"], OK["mean"], OK["k"], OK["k"], 2 * OK["k"], torch.eye(D, dtype=torch.float64)
            ),
            NumericsError,
            "not positive semi-definite",
        ),
        (
            lambda: F.last_layer_score_variance(
                OK["mean"], OK["mean"], OK["k"], OK["k"], OK["k"], OK["cov"][:, :3, :3]
            ),
            ShapeError,
            r"output_cov \[6, 6\]",
        ),
        (
            lambda: F.last_layer_score_variance(
                OK["mean"], OK["mean"], OK["k"], OK["k"], OK["k"][:, None], torch.eye(D, dtype=torch.float64)
            ),
            ShapeError,
            r"k_ij \[7\], got \[7, 1\]",
        ),
        (
            lambda: F.last_layer_score_variance(
                OK["mean"], OK["mean"], -OK["k"], OK["k"], OK["k"], torch.eye(D, dtype=torch.float64)
            ),
            NumericsError,
            "k_ii must be >= 0",
        ),
    ],
)
def test_an_argument_that_cannot_be_right_is_refused_by_name(call, error, says) -> None:
    with pytest.raises(error, match=says):
        call()


def test_a_non_finite_score_names_the_pair() -> None:
    v = draw(N, D)
    v[4, 1] = torch.nan
    with pytest.raises(NumericsError, match=r"got nan at \[4\] \(1 such entries\)"):
        F.preference_score(v, draw(N, D, seed=1))
