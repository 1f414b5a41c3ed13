"""Batch selectors on 100,000 pairs: seconds, memory, and the same work done the plain way in the same process.

``python -m benchmarks.selection`` prints a table. "Plain" is,
on a pool small enough for it, what the selector would be without its shortcut:

* ``coreset``: distances to *all* picks anew at each pick, O(N k^2 p) (greedy k-centre by definition);
* ``cluster``: full-batch k-means (scikit-learn's KMeans) with as many clusters;
* ``conditional_bald``: every pair's BALD anew at each pick, and the posterior refitted by inversion.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks._table import Line, main, peak_mib, seconds
from bgpm.registry import build
from bgpm.selection import Selection
from bgpm.types import Candidates, Features, Pairs

PAIRS, FEATURES = 100_000, 384
SIZES = {"coreset": 1000, "cluster": 1000, "conditional_bald": 256}  # k
SMALL = {"coreset": (10_000, 400), "cluster": (20_000, 400), "conditional_bald": (2_000, 32)}  # N, k of the comparison


class LinearKernel:
    """Covariance of scores that are linear in x with independent weights."""

    def __init__(self, x: np.ndarray) -> None:
        import torch

        self.x = torch.from_numpy(x)

    def diagonal(self):
        return self.x.square().sum(1)

    def row(self, j: int):
        return self.x @ self.x[j]

    def block(self, rows, columns):
        return self.x[rows] @ self.x[columns].T


def pool(n: int, p: int = FEATURES) -> Candidates:
    """A pool with a decaying spectrum, as principal components have."""
    rng = np.random.default_rng(0)
    responses = rng.standard_normal((2 * n // 5, p), dtype=np.float32) / np.sqrt(np.arange(1, p + 1, dtype=np.float32))
    response_a = rng.integers(0, len(responses), n)
    response_b = (response_a + rng.integers(1, len(responses), n)) % len(responses)

    def kernel() -> LinearKernel:
        return LinearKernel(responses[response_a].astype(np.float64) - responses[response_b])

    variance = np.square(responses[response_a] - responses[response_b], dtype=np.float64).sum(1)
    return Candidates(
        Pairs(response_a, response_b, rng.integers(0, n // 10, n)),
        rng.normal(size=n) * np.sqrt(variance),
        variance,
        1.0,
        Features(responses, np.zeros((n // 10, 1), np.float32)),
        np.array([f"pair {i}" for i in range(n)], object),
        kernel,
    )


def plain_coreset(c: Candidates, k: int) -> None:
    x = c.features.responses[c.pairs.response_a] - c.features.responses[c.pairs.response_b]
    squares = np.square(x).sum(1)
    picks = [0]
    for _ in range(k - 1):
        apart = squares[:, None] + squares[picks] - 2 * np.abs(x @ x[picks].T)
        picks.append(int(apart.min(axis=1).argmax()))


def plain_cluster(c: Candidates, k: int) -> None:
    from sklearn.cluster import KMeans

    x = c.features.responses[c.pairs.response_a] - c.features.responses[c.pairs.response_b]
    KMeans(k, random_state=0).set_params(n_init=1).fit(np.abs(x))


def plain_conditional_bald(c: Candidates, k: int) -> None:
    import torch

    from bgpm import functional as F

    kernel = c.kernel()
    assert isinstance(kernel, LinearKernel)
    x, mean = kernel.x, torch.tensor(c.mean)
    weight = F.fisher_weight(mean, torch.tensor(c.variance))
    precision = torch.eye(x.shape[1], dtype=x.dtype)
    for _ in range(k):
        variance = (x @ torch.linalg.inv(precision) * x).sum(1)
        j = int(F.bald(mean, variance).argmax())
        precision += weight[j] * torch.outer(x[j], x[j])


PLAIN: dict[str, Callable[[Candidates, int], None]] = {
    "coreset": plain_coreset,
    "cluster": plain_cluster,
    "conditional_bald": plain_conditional_bald,
}


def select(kind: str, c: Candidates, k: int) -> tuple[float, float]:
    selection = build(Selection, kind, {})
    values = np.random.default_rng(1).random(len(c))
    return seconds(lambda: selection(c, values, k, generator=np.random.default_rng(2)))


def measure(kind: str, scale: float) -> Line:
    n, few = (max(least, int(size * scale)) for least, size in zip((100, 2), SMALL[kind], strict=True))
    small = pool(n)
    select(kind, pool(500), 8)  # imports and warms up
    quick, plain = select(kind, small, few)[1], seconds(lambda: PLAIN[kind](small, few))[1]
    pairs, k = max(100, int(PAIRS * scale)), max(1, int(SIZES[kind] * scale))
    big = pool(pairs)
    before = peak_mib()
    wall, cpu = select(kind, big, k)
    what = f"{kind}, {pairs:,} pairs, {FEATURES} features, k = {k:,}"
    return Line(what, wall, cpu, before, peak_mib(), f"plain, {n:,} pairs, k = {few}", plain, plain / quick)


if __name__ == "__main__":
    main("benchmarks.selection", __doc__, {kind: partial(measure, kind) for kind in SIZES})
