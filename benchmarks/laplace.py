"""The default posterior on many labels, against the same fit done the plain way in the same process.

``python -m benchmarks.laplace`` prints a table. Ours is the whole fit with nothing given: the prior precision chosen by
held-out likelihood, cyclic blocks screened, started, compared and accepted, and the covariance. The reference is told
the number of blocks and every prior precision, and does one fit: torch's L-BFGS with a strong Wolfe line search on all
weights from a random start, and the Hessian of its objective by automatic differentiation, inverted.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks._table import Line, main, peak_mib, seconds
from bgpm import functional as F
from bgpm.fitting.cyclic_blocks import module_of
from bgpm.fitting.tensors import LabelledTensors, labelled
from bgpm.models.gpm import Gpm
from bgpm.posteriors.laplace import Laplace
from bgpm.types import Comparisons, Features, Pairs

LABELS, FEATURES, DIM = 5000, 384, 6


def world(labels: int, p: int) -> tuple[Features, Comparisons]:
    """A reward and a cyclic plane, scores of both with a standard deviation of about 2 logits."""
    rng = np.random.default_rng(0)
    prompts = labels // 3
    responses = rng.standard_normal((4 * prompts, p), dtype=np.float32)
    reward = rng.standard_normal(p) * 2 / (2 * p) ** 0.5
    plane = np.linalg.qr(rng.standard_normal((p, 2)))[0]
    prompt = rng.integers(0, prompts, labels)
    one = rng.integers(0, 4, labels)
    pairs = Pairs(4 * prompt + one, 4 * prompt + (one + rng.integers(1, 4, labels)) % 4, prompt)
    x, y = responses[pairs.response_a], responses[pairs.response_b]
    u, v = x @ plane, y @ plane
    score = (x - y) @ reward + 2 / 2**0.5 * (u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
    label = rng.random(labels) < 1 / (1 + np.exp(-score))
    return Features(responses, np.zeros((prompts, 1), np.float32)), Comparisons(pairs, label.astype(float))


def plain(data: LabelledTensors, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [D, p] and their covariance by textbook means."""
    shape = len(precision), data.response_a.shape[1]
    scale = precision[:, None].rsqrt()
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    module = module_of(start)

    def objective(flat: Tensor) -> Tensor:
        weight = flat.view(shape)
        score = torch.func.functional_call(module, {"weight": weight}, (data.response_a, data.response_b))
        return F.pairwise_loss(score, data.label, tau=1.0).sum() + (weight / scale).square().sum() / 2

    weight = (start / shape[1] ** 0.5).flatten().requires_grad_()
    search = torch.optim.LBFGS(
        [weight],
        max_iter=2000,
        max_eval=4000,
        tolerance_grad=1e-4,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        search.zero_grad()
        value = objective(weight)
        value.backward()
        return value

    search.step(closure)
    hessian = torch.autograd.functional.hessian(objective, weight.detach())
    assert isinstance(hessian, Tensor)
    # along the gauge directions only the prior holds; elsewhere a minimum has no negative curvature
    return weight.detach().view(shape), torch.linalg.inv(hessian)


def laplace(scale: float) -> Line:
    labels, p = max(60, int(LABELS * scale)), max(8, int(FEATURES * scale))
    features, comparisons = world(labels, p)
    torch.set_num_threads(1)  # as in the stages: several wait for each other in small matrices
    head, settings = Gpm(dim=DIM), Laplace()
    settings.fit(head, *world(60, 8), seed=0)  # imports and warms up
    before = peak_mib()
    wall, cpu = seconds(lambda: settings.fit(head, features, comparisons, seed=0))
    peak = peak_mib()
    summary = settings.fit(head, features, comparisons, seed=0).summary()
    blocks = int(summary["blocks_active"])
    precision = [float(summary["prior_precision"]), *[float(summary.get("block_precision", 1.0))] * (2 * blocks)]
    data = labelled(features, comparisons, prompts=False, margins=False)
    _, reference = seconds(lambda: plain(data, torch.tensor(precision, dtype=torch.float64)))
    return Line(
        f"Laplace fit, {labels:,} labels, {p} features, d = {DIM}, {blocks} cyclic blocks found",
        wall,
        cpu,
        before,
        peak,
        "one fit by torch L-BFGS and a Hessian by autograd, given blocks and priors",
        reference,
        reference / cpu,
    )


if __name__ == "__main__":
    main("benchmarks.laplace", __doc__, {"laplace": laplace})
