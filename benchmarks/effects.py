"""Effects of responses on a large pool, against plain means in the same process.

``python -m benchmarks.effects`` prints a table. 25,000 prompts of 4 responses, all 150,000 pairs, 5,000 labels, 71
features, Bradley-Terry. *fit* is the whole Laplace fit, prior precision and the effects' variance chosen; its
reference is told both and does one fit: Newton's method on all weights and effects at once, the Hessian a sparse matrix
that SciPy factorises. *pairs* is the moments of all pairs and 256 rows of their kernel; its reference is the same of
the model without effects.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks._table import Line, main, peak_mib, seconds
from bgpm.fitting import Fitted
from bgpm.models.bt import Bt
from bgpm.posteriors.laplace import Laplace
from bgpm.types import Comparisons, Features, Pairs

PROMPTS, RESPONSES, LABELS, FEATURES, ROWS = 25_000, 4, 5_000, 71, 256
STEPS = 12  # of Newton's method in the reference


def pool(prompts: int, labels: int, p: int) -> tuple[Features, Pairs, Comparisons]:
    """All pairs of a pool, and labels of random ones by a linear reward plus effects of unit variance."""
    rng = np.random.default_rng(0)
    responses = rng.standard_normal((RESPONSES * prompts, p), dtype=np.float32)
    total = responses @ (rng.standard_normal(p, dtype=np.float32) * 2 / (2 * p) ** 0.5)
    total += rng.standard_normal(len(total), dtype=np.float32)
    i, j = np.triu_indices(RESPONSES, 1)
    prompt = np.repeat(np.arange(prompts), len(i))
    pairs = Pairs(RESPONSES * prompt + np.tile(i, prompts), RESPONSES * prompt + np.tile(j, prompts), prompt)
    # labels gather on a fifth of the prompts, as those of an acquisition do
    chosen = pairs.take(rng.permutation(len(i) * max(1, prompts // 5))[:labels])
    label = rng.random(len(chosen)) < 1 / (1 + np.exp(total[chosen.response_b] - total[chosen.response_a]))
    return Features(responses, np.zeros((prompts, 1), np.float32)), pairs, Comparisons(chosen, label.astype(float))


def sparse_fit(features: Features, data: Comparisons, precision: float, variance: float) -> np.ndarray:
    """Weights and effects of all responses in labels, [p + R], by Newton's method on a sparse Hessian."""
    from scipy import sparse
    from scipy.sparse.linalg import splu

    names, place = np.unique(np.concatenate([data.pairs.response_a, data.pairs.response_b]), return_inverse=True)
    n, p = len(data), features.dim
    at = np.concatenate([np.arange(n)] * 2)
    d = sparse.csr_array((np.repeat([1.0, -1.0], n), (at, place)), shape=(n, len(names)))
    x = features.responses[data.pairs.response_a].astype(float) - features.responses[data.pairs.response_b]
    jacobian = sparse.hstack([sparse.csr_array(x), d]).tocsr()
    prior = np.concatenate([np.full(p, precision), np.full(len(names), 1 / variance)])
    theta = np.zeros(p + len(names))
    for _ in range(STEPS):
        probability = 1 / (1 + np.exp(-(jacobian @ theta)))
        curvature = sparse.diags_array(probability * (1 - probability))
        hessian = (jacobian.T @ (curvature @ jacobian) + sparse.diags_array(prior)).tocsc()
        theta -= splu(hessian).solve(jacobian.T @ (probability - data.label) + prior * theta)
    return theta


def use(model: Fitted, features: Features, pairs: Pairs) -> None:
    """Moments of all pairs, and rows of their kernel."""
    model.moments(features, pairs)
    kernel = model.kernel(features, pairs)
    for j in range(0, len(pairs), max(1, len(pairs) // ROWS)):
        kernel.row(j)


def _sizes(scale: float) -> tuple[int, int, int]:
    return max(40, int(PROMPTS * scale)), max(40, int(LABELS * scale)), max(4, int(FEATURES * min(1.0, 4 * scale)))


def fit(scale: float) -> Line:
    torch.set_num_threads(1)
    settings = Laplace(response_variance="auto")
    small, _, few = pool(40, 60, 4)
    settings.fit(Bt(), small, few, seed=0)  # imports and warms up
    features, _, data = pool(*_sizes(scale))
    before = peak_mib()
    wall, cpu = seconds(lambda: settings.fit(Bt(), features, data, seed=0))
    peak = peak_mib()
    summary = settings.fit(Bt(), features, data, seed=0).summary()
    given = float(summary["prior_precision"]), float(summary["response_variance"]) or 0.1
    _, reference = seconds(lambda: sparse_fit(features, data, *given))
    return Line(
        f"fit with response effects, {len(data):,} labels, {features.dim} features, precision and variance chosen",
        wall,
        cpu,
        before,
        peak,
        f"one fit given both, {STEPS} Newton steps by SciPy's sparse LU",
        reference,
        reference / cpu,
    )


def every_pair(scale: float) -> Line:
    torch.set_num_threads(1)
    features, pairs, data = pool(*_sizes(scale))
    model = Laplace(response_variance=1.0, prior_precision=30.0).fit(Bt(), features, data, seed=0)
    plain = Laplace(prior_precision=30.0).fit(Bt(), features, data, seed=0)
    few = pairs.take(np.arange(100))
    use(model, features, few)
    before = peak_mib()
    wall, cpu = seconds(lambda: use(model, features, pairs))
    peak = peak_mib()
    _, reference = seconds(lambda: use(plain, features, pairs))
    return Line(
        f"moments of {len(pairs):,} pairs and {ROWS} kernel rows with response effects",
        wall,
        cpu,
        before,
        peak,
        "the same without effects",
        reference,
        reference / cpu,
    )


CASES = {"fit": fit, "pairs": every_pair}

if __name__ == "__main__":
    main("benchmarks.effects", __doc__ or "", CASES)
