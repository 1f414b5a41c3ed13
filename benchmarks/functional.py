"""Speed and memory of the maths, each against a named reference in the same process.

``python -m benchmarks.functional`` prints a table; torch uses as many threads as OMP_NUM_THREADS says. The references:

* ``bald``: Monte Carlo BALD with 20 samples of both embeddings, vectorised over samples, in chunks that stay in cache;
* ``logdet``: the posterior refitted after each pick (rank-one update of the precision, Cholesky inverse, variance of
  every pair), timed for one pick and multiplied by k;
* ``diagonal``: variances of pairs from the dense Jacobian [N, D p].
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks._table import Case, Line, main, peak_mib, seconds
from bgpm import functional as F

D, P = 6, 384  # embedding dimension and features
SIZES = {"bald": 1_000_000, "logdet": 100_000, "diagonal": 20_000}
PICKS, SAMPLES, LABELS = 256, 20, 2000


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sampled_bald(mean_i: Tensor, var_i: Tensor, mean_j: Tensor, var_j: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for m_i, v_i, m_j, v_j in zip(*(t.split(8192) for t in (mean_i, var_i, mean_j, var_j)), strict=True):
        noise = torch.randn(2, SAMPLES, *m_i.shape, generator=generator, dtype=m_i.dtype)
        x_i, x_j = m_i + v_i.sqrt() * noise[0], m_j + v_j.sqrt() * noise[1]
        score = (x_i[..., 0::2] * x_j[..., 1::2] - x_i[..., 1::2] * x_j[..., 0::2]).sum(-1)
        p = score.sigmoid().mean(0)
        predictive = -torch.xlogy(p, p) - torch.special.xlog1py(1 - p, -p)
        size = score.abs()
        parts.append(predictive - (torch.log1p((-size).exp()) + size * (-size).sigmoid()).mean(0))
    return torch.cat(parts)


def bald(scale: float) -> Line:
    n = int(SIZES["bald"] * scale)
    # float32, which favours the reference; scores spread by about 2 and have a standard deviation of about 2
    embeddings = []
    for seed in (0, 2):
        embeddings += [
            normal(n, D, seed=seed, dtype=torch.float32),
            0.3 * normal(n, D, seed=seed + 1, dtype=torch.float32).exp(),
        ]

    def exact() -> Tensor:
        return F.bald(*F.score_moments(*embeddings))

    before, value = peak_mib(), exact()
    peak = peak_mib()
    noise = (value - sampled_bald(*embeddings)).abs().median().item()
    wall, cpu = seconds(exact, 3)
    _, reference = seconds(lambda: sampled_bald(*embeddings), 3)
    what, than = (
        f"BALD from embeddings, {n:,} pairs, D = {D}",
        f"{SAMPLES}-sample Monte Carlo (median error {noise:.3f} nat)",
    )
    return Line(what, wall, cpu, before, peak, than, reference, reference / cpu)


def problem(n: int) -> tuple[Tensor, F.LinearisedKernel, tuple[Tensor, ...]]:
    """Precision after some labels with unit prior, the kernel of n pairs, and mean_i, mean_j, phi_i, phi_j."""
    weights = normal(D, P, seed=0) / P**0.5
    x, y = (normal(LABELS, P, seed=seed) for seed in (1, 2))
    g = jacobian(x @ weights.T, y @ weights.T, x, y)
    precision = 0.25 * g.T @ g
    precision.diagonal().add_(1.0)
    phi_i, phi_j = (normal(n, P, seed=seed, dtype=torch.float32) for seed in (3, 4))
    pairs = phi_i.double() @ weights.T, phi_j.double() @ weights.T, phi_i, phi_j
    return precision, F.pair_kernel(*pairs, posterior(precision)), pairs


def posterior(precision: Tensor) -> F.FullPosterior:
    covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
    return F.FullPosterior((covariance + covariance.T) / 2)


def jacobian(mean_i: Tensor, mean_j: Tensor, phi_i: Tensor, phi_j: Tensor) -> Tensor:
    a, b = F.apply_skew(mean_j), -F.apply_skew(mean_i)
    return (a[:, :, None] * phi_i[:, None] + b[:, :, None] * phi_j[:, None]).flatten(1)


def logdet(scale: float) -> Line:
    n, picks = int(SIZES["logdet"] * scale), max(1, int(PICKS * scale))
    precision, kernel, pairs = problem(n)
    weight = torch.full((n,), 0.25, dtype=torch.float64)
    variance = kernel.diagonal()
    before = peak_mib()
    wall, cpu = seconds(lambda: F.greedy_logdet(variance, kernel.row, weight, picks, block=kernel.block))
    peak = peak_mib()

    def refit() -> None:
        g = jacobian(*(t[:1].double() for t in pairs))[0]
        F.pair_kernel(*pairs, posterior(precision + 0.25 * torch.outer(g, g))).diagonal()

    reference = seconds(refit)[1] * picks
    what = f"greedy_logdet, {n:,} pairs, D p = {D} x {P}, k = {picks}"
    return Line(what, wall, cpu, before, peak, "refitting after each pick", reference, reference / cpu)


def diagonal(scale: float) -> Line:
    n = int(SIZES["diagonal"] * scale)
    precision, kernel, pairs = problem(n)
    covariance = posterior(precision).covariance
    before = peak_mib()
    wall, cpu = seconds(kernel.diagonal)
    peak = peak_mib()

    def dense() -> Tensor:
        g = jacobian(*(t.double() for t in pairs))
        return ((g @ covariance) * g).sum(-1)

    _, reference = seconds(dense)
    what, than = f"variances, {n:,} pairs, D p = {D} x {P}", f"dense Jacobian (peak {peak_mib():.0f} MiB)"
    return Line(what, wall, cpu, before, peak, than, reference, reference / cpu)


CASES: dict[str, Case] = {"bald": bald, "logdet": logdet, "diagonal": diagonal}

if __name__ == "__main__":
    main("benchmarks.functional", __doc__, CASES)
