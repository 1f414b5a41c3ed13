"""Laplace covariances of a last layer's weights W [D, q]: which form, how it is made, drawn from and kept.

The precision is A + H with A = diag(precision of each row) (x) I_q and the Gauss-Newton matrix
H = sum_n c_n g_n g_n', g_n = a_n (x) x_n + b_n (x) y_n. The forms themselves are `bgpm.functional`'s:

* ``full``: the inverse, exact, (D q)^2 numbers.
* ``low_rank``: the dual form over the n labels, exact, n (n + 2 q + 2 D) numbers.
* ``kronecker``: the product U (x) V of lowest divergence KL(N(0, U (x) V) || N(0, (A + H)^-1)), which keeps the
  directions that labels have settled. Exact for D = 1. The product nearest to A + H in Frobenius norm would
  follow its large eigenvalues and lose the small ones: variances ten times too large and more.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from bgpm.errors import ConfigError, NumericsError
from bgpm.functional.kernel import FullPosterior, KroneckerPosterior, LowRankPosterior, WeightPosterior
from bgpm.networks import Design

EXACT_ENTRIES = 30_000_000  # an exact form may hold this many numbers: 240 MB
SWEEPS = 50
SETTLED = 1e-8  # relative change of the Kronecker factor at which sweeps end

FORMS: dict[str, type] = {
    "full": FullPosterior,
    "low_rank": LowRankPosterior,
    "kronecker": KroneckerPosterior,
}


def choose(structure: str, labels: int, rows: int, inputs: int) -> str:
    """``auto`` is the smaller of the two exact forms, or Kronecker where neither is small."""
    if structure != "auto":
        return structure
    size = {"full": (rows * inputs) ** 2, "low_rank": labels * (labels + 2 * inputs + 2 * rows)}
    smaller = min(size, key=lambda form: size[form])
    return smaller if size[smaller] <= EXACT_ENTRIES else "kronecker"


def make(form: str, design: Design, curvature: Tensor, precision: Tensor) -> WeightPosterior:
    """The covariance of W after labels with this design.

    Args:
        form: ``full``, ``low_rank`` or ``kronecker``.
        design: Gradient factors of the labelled scores.
        curvature: Second derivative of each label's loss in its score, >= 0, [N].
        precision: Prior precision of each row, [D], or of each weight, [D, q]; Kronecker takes the former only.

    Raises:
        NumericsError: If a curvature is negative or not finite.
        ConfigError: If a Kronecker product is asked for with a precision of each weight.
    """
    if not (torch.isfinite(curvature).all() and (curvature >= 0).all()):
        raise NumericsError(
            f"the loss must be convex in the score, got curvature {curvature.min().item()} at the fitted weights; "
            "use loss: logistic or a larger prior_precision"
        )
    root = curvature.sqrt()[:, None]
    a, b, x, y = root * design.a, root * design.b, design.x, design.y
    if form == "full":
        g = Design(a, x, b, y).gradients()
        matrix = g.T @ g
        matrix.diagonal().add_(precision.repeat_interleave(x.shape[1]) if precision.ndim == 1 else precision.flatten())
        return FullPosterior(_inverse(matrix))
    if form == "low_rank":
        by_row = precision.ndim == 1
        variance = (precision[:, None] if by_row else precision).reciprocal().expand(-1, x.shape[1]).contiguous()
        gram = torch.eye(len(a), dtype=a.dtype)
        for row in range(a.shape[1]):
            side = a[:, row, None] * x + b[:, row, None] * y
            if by_row:
                gram.addmm_(side, side.T, alpha=variance[row, 0].item())
            else:
                gram.addmm_(side * variance[row], side.T)
        return LowRankPosterior(variance, a, b, x, y, torch.linalg.cholesky(gram).contiguous())
    if precision.ndim > 1:
        raise ConfigError(
            "a Kronecker covariance has one prior precision a row of weights: set precision_by_block: false or "
            f"structure: full; where auto chose it, {a.shape[1]} x {x.shape[1]} weights are too many: "
            "lower features.pca"
        )
    return _closest_product(a, b, x, y, precision)


def _closest_product(a: Tensor, b: Tensor, x: Tensor, y: Tensor, precision: Tensor) -> WeightPosterior:
    inputs = x.shape[1]
    output_cov, input_cov = torch.diag(precision.reciprocal()), torch.eye(inputs, dtype=a.dtype)
    for _ in range(SWEEPS):  # coordinate descent on the divergence: each factor is the inverse of an expected precision
        aa, ab, bb = (((s @ output_cov) * t).sum(-1, keepdim=True) for s, t in ((a, a), (a, b), (b, b)))
        cross = x.T @ (ab * y)
        inner = x.T @ (aa * x) + cross + cross.T + y.T @ (bb * y)
        inner.diagonal().add_(output_cov.diagonal() @ precision)
        input_cov = _inverse(inner)  # up to a factor that the other side takes back
        vx, vy = x @ input_cov, y @ input_cov
        xx, xy, yy = ((s * t).sum(-1, keepdim=True) for s, t in ((vx, x), (vx, y), (vy, y)))
        cross = a.T @ (xy * b)
        outer = a.T @ (xx * a) + cross + cross.T + b.T @ (yy * b)
        outer.diagonal().add_(input_cov.trace() * precision)
        before, output_cov = output_cov, _inverse(outer / inputs)
        if torch.linalg.norm(output_cov - before) <= SETTLED * torch.linalg.norm(output_cov):
            break
    return KroneckerPosterior(output_cov, input_cov)


def _inverse(matrix: Tensor) -> Tensor:
    inverse = torch.cholesky_inverse(torch.linalg.cholesky((matrix + matrix.T) / 2))
    # rows in memory order, as a file gives them back: another order would round products differently
    return ((inverse + inverse.T) / 2).contiguous()


def draw(posterior: WeightPosterior, n: int, *, generator: torch.Generator) -> Tensor:
    """n draws of W minus its mean, [n, D, q]."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=generator, dtype=torch.float64)

    if isinstance(posterior, KroneckerPosterior):
        left, right = (torch.linalg.cholesky(c) for c in (posterior.output_cov, posterior.input_cov))
        return left @ normal(len(left), len(right)) @ right.T
    if isinstance(posterior, FullPosterior):
        root = torch.linalg.cholesky(posterior.covariance)
        return normal(len(root)) @ root.T
    # Matheron's rule: a prior draw minus what imagined labels would teach about it
    prior = posterior.prior_variance.sqrt() * normal(*posterior.prior_variance.shape)
    a, b, x, y = posterior.a, posterior.b, posterior.phi_i, posterior.phi_j
    seen = (a * torch.einsum("np,crp->cnr", x, prior) + b * torch.einsum("np,crp->cnr", y, prior)).sum(-1)
    dual = torch.cholesky_solve((seen + normal(len(a))).T, posterior.cholesky)
    back = torch.einsum("nc,nr,np->crp", dual, a, x) + torch.einsum("nc,nr,np->crp", dual, b, y)
    return prior - posterior.prior_variance * back


def tensors(posterior: WeightPosterior) -> tuple[str, dict[str, Tensor]]:
    """Name of the form and every tensor that describes it."""
    form = next(name for name, kind in FORMS.items() if isinstance(posterior, kind))
    return form, {f.name: getattr(posterior, f.name) for f in fields(posterior) if f.name != "rows"}


def restore(form: str, saved: dict[str, Tensor]) -> WeightPosterior:
    """The inverse of `tensors`."""
    return FORMS[form](**saved)
