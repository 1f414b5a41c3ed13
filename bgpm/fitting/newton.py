"""Models that are linear in their weights, s = X w: maximum a posteriori by damped Newton, and its prior.

The problem is convex, so the damped iteration converges from anywhere; the undamped one diverges at weak
priors and returns plausible nonsense. Where annotators err it is not convex: wherever the curvature is not positive
the sizes of its eigenvalues take their place (Y. Dauphin et al., "Identifying and attacking the saddle point problem",
NeurIPS 2014). Every step still goes down, and what is found is a minimum near the start.
With fewer labels than features everything happens in the row space
of X: outside of it the weights keep their prior.

Evidence: D. MacKay, "The evidence framework applied to classification networks", Neural Computation 1992:
log p(D | alpha) ~ -loss - alpha |w|^2 / 2 + r / 2 log alpha - 1/2 log det(H + alpha I). It trusts the model:
where a linear reward is wrong, evidence grows too sure with more labels, and held-out likelihood does not.

Shapes: N labels, p features, r = min(N, p).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bgpm.errors import NumericsError

FoldRows = tuple[Tensor, Tensor]  # rows of training and of held-out labels
Evaluation = tuple[Tensor, float, Tensor, Tensor]  # weights, objective, first and second derivative in the scores
Loss = Callable[[Tensor], Tensor]  # scores [N] to the loss of each label [N], convex or with a `curvature` of its own

# Prior variance of the average labelled pair's score, in logits squared (a score is logits times tau): where the search
# begins, how far it may go, and the standard deviation of the weak log-normal hyperprior that keeps a handful of labels
# sane.
PRIOR_SCORE_VARIANCE = 4.0
BOUNDS = (1e-3, 1e4)
HYPERPRIOR_SD = 2.0
STEP = 4.0

MAX_STEPS, MAX_HALVINGS = 200, 40
TOLERANCE = 1e-10  # nats: half the squared Newton decrement, before a last step that squares it
FLAT = 1e-3  # of the prior precision: the least curvature that a step divides by
ROUNDING = 1e-13  # of the objective, relative


@dataclass(frozen=True)
class LinearFit:
    """Weights w [p] under a prior precision, with the quantities that follow from them.

    Attributes:
        weight: Maximum a posteriori, [p].
        precision: Prior precision alpha.
        log_evidence: Laplace evidence, up to a constant, in nats.
    """

    weight: Tensor
    precision: float
    log_evidence: float


def derivatives(loss: Loss, score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, its first and its second derivative in the score, of each label, [N]."""
    with torch.enable_grad():
        score = score.detach().requires_grad_()
        value = loss(score)
        (first,) = torch.autograd.grad(value.sum(), score, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), score)
    return value.detach(), first.detach(), second


def gauss_newton(loss: Loss, score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`derivatives`, the second replaced by what is nowhere negative where a loss that is not convex names it."""
    value, first, second = derivatives(loss, score)
    curvature = own_curvature(loss, score)
    return value, first, second if curvature is None else curvature


def own_curvature(loss: Loss, score: Tensor) -> Tensor | None:
    return getattr(loss, "curvature", lambda _: None)(score)


class LinearProblem:
    """min_w sum_n loss(x_n' w)_n + alpha / 2 |w - anchor|^2 for any alpha, warm-started.

    Args:
        x: [N, p].
        loss: Loss of each label as a function of the scores.
        anchor: [p], where the prior is centred; zero by default.
        offset: [N], a known part of the scores; zero by default.
    """

    def __init__(self, x: Tensor, loss: Loss, anchor: Tensor | None = None, offset: Tensor | None = None) -> None:
        n, p = x.shape
        self.anchor = x.new_zeros(p) if anchor is None else anchor
        self.offset = x @ self.anchor + (0 if offset is None else offset)
        self.basis, self.x = None, x
        if n < p:
            self.basis, upper = torch.linalg.qr(x.T)
            self.x = upper.T
        self.loss = loss
        self.start = x.new_zeros(self.x.shape[1])
        scale = x.square().sum(-1).mean().item()
        self.scale = scale if scale > 0 else 1.0

    def solve(self, precision: float) -> LinearFit:
        """The maximum a posteriori under this precision, by Newton with backtracking.

        Raises:
            NumericsError: If it does not converge.
        """
        z, value, first, second = self._evaluate(self.start, precision)
        for _ in range(MAX_STEPS):
            gradient = self.x.T @ first + precision * z
            hessian = self._hessian(second, precision)
            root, failed = torch.linalg.cholesky_ex(hessian)
            if failed and own_curvature(self.loss, self.offset + self.x @ z) is not None:
                values, vectors = torch.linalg.eigh(hessian)
                hessian = vectors * values.abs().clamp_min(FLAT * precision) @ vectors.T
                root, failed = torch.linalg.cholesky_ex(hessian)
            if failed:
                raise self._stuck(precision, "its curvature is not positive")
            direction = -torch.cholesky_solve(gradient[:, None], root)[:, 0]
            slope = (gradient @ direction).item()
            if -slope / 2 <= TOLERANCE:
                break
            z, value, first, second = self._step(z, value, direction, slope, precision)
        else:
            raise self._stuck(precision, f"{MAX_STEPS} steps were not enough")
        self.start = z + direction
        self._at = first, second, hessian, precision
        evidence = -value + len(z) / 2 * math.log(precision) - root.diagonal().log().sum().item()
        return LinearFit(self._weight(self.start), precision, evidence)

    def _step(self, z: Tensor, value: float, direction: Tensor, slope: float, precision: float) -> Evaluation:
        """The longest of the steps 1, 1/2, 1/4, ... that lowers the objective enough."""
        for halvings in range(MAX_HALVINGS):
            length = 0.5**halvings
            trial = self._evaluate(z + length * direction, precision)
            if trial[1] <= value + 1e-4 * length * slope + ROUNDING * abs(value):
                return trial
        raise self._stuck(precision, "no step along Newton's direction lowers the objective")

    def without(self, rows: Tensor) -> Tensor:
        """Weights [p] after the last solve, had the labels at these rows not been there: one Newton step."""
        first, second, hessian, precision = self._at
        x = self.x[rows]
        root, failed = torch.linalg.cholesky_ex(hessian - x.T @ (second[rows, None] * x))
        if failed and (fisher := own_curvature(self.loss, self.offset + self.x @ self.start)) is not None:
            fisher[rows] = 0
            root = torch.linalg.cholesky(self._hessian(fisher, precision))
        step = torch.cholesky_solve((x.T @ first[rows])[:, None], root)[:, 0]
        return self._weight(self.start + step)

    def held_out_loss(self, splits: Sequence[FoldRows], loss: Loss | None = None) -> float:
        """Loss of the held-out labels of all folds after the last solve, each fold's weights by one Newton step.

        Args:
            loss: Measures in place of the loss that was minimised.
        """
        first, second, hessian, _ = self._at
        score = self.offset + self.x @ self.start
        half = torch.linalg.solve_triangular(torch.linalg.cholesky(hessian), self.x.T, upper=False)
        for _, held in splits:
            # Woodbury: the score moves by A (I - C A)^-1 times the slope, A = X H^-1 X' and C of the held-out rows
            a = half[:, held].T @ half[:, held]
            rest = torch.eye(len(held), dtype=a.dtype) - second[held, None] * a
            score[held] += a @ torch.linalg.solve(rest, first[held])
        tested = torch.cat([held for _, held in splits])
        return (loss or self.loss)(score)[tested].sum().item()

    def by_evidence(self, tau: float = 1.0) -> LinearFit:
        """The fit under the precision of highest evidence; ``tau`` is the likelihood's, the unit of the scores."""
        return self._climb(lambda fit: fit.log_evidence, tau)

    def by_heldout(self, splits: Sequence[FoldRows], tau: float = 1.0) -> LinearFit:
        """The fit under the precision of highest cross-validated likelihood; by evidence without any fold."""
        return self._climb(lambda _: -self.held_out_loss(splits), tau) if splits else self.by_evidence(tau)

    def _climb(self, worth: Callable[[LinearFit], float], tau: float = 1.0) -> LinearFit:
        """Uphill in worth plus hyperprior on a logarithmic grid of precisions, then to a parabola's peak."""
        tried: dict[float, tuple[float, LinearFit]] = {}
        reach = [math.log(bound / PRIOR_SCORE_VARIANCE) / math.log(STEP) for bound in BOUNDS]

        def at(k: float) -> float:
            if not reach[0] <= k <= reach[1]:
                return -math.inf
            if k not in tried:
                fit = self.solve(self.scale / (PRIOR_SCORE_VARIANCE * tau**2) * STEP**-k)
                tried[k] = worth(fit) - (k * math.log(STEP) / HYPERPRIOR_SD) ** 2 / 2, fit
            return tried[k][0]

        best = 0
        while at(up := max((best - 1, best + 1), key=at)) > at(best):
            best = up
        low, mid, high = at(best - 1), at(best), at(best + 1)
        bend = low - 2 * mid + high
        if math.isfinite(bend) and bend < 0:
            at(best + (low - high) / (2 * bend))
        # once more, so that what is asked about labels left out is asked at this precision and not the last one tried
        return self.solve(max(tried.values(), key=lambda pair: pair[0])[1].precision)

    def _hessian(self, curvature: Tensor, precision: float) -> Tensor:
        hessian = self.x.T @ (curvature[:, None] * self.x)
        hessian.diagonal().add_(precision)
        return hessian

    def _weight(self, z: Tensor) -> Tensor:
        return self.anchor + (z if self.basis is None else self.basis @ z)

    def _evaluate(self, z: Tensor, precision: float) -> Evaluation:
        value, first, second = derivatives(self.loss, self.offset + self.x @ z)
        return z, (value.sum() + precision / 2 * z.square().sum()).item(), first, second

    def _stuck(self, precision: float, why: str) -> NumericsError:
        return NumericsError(
            f"Newton's method did not converge on {len(self.x)} labels at prior precision {precision:.3g}: {why}; "
            "set a larger prior_precision, and use features whose mean square is about 1"
        )
