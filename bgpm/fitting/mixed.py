"""Models linear in their weights with one prior precision a group of features, and an effect of each response.

    s_ij = w'(phi_i - phi_j) + u_i - u_j,    w_k ~ N(0, 1 / alpha_g(k)),    u_r ~ N(0, sigma^2).

Fitted in units of the prior, z = alpha^1/2 w and u = sigma t, so that sigma = 0 is no special case. With X [N, p]
the scaled feature differences, D the signed incidence of pairs and responses, L the likelihood's curvatures,

    H = [[X'LX + I, sigma X'LD], [sigma D'LX, C]],   C = I + sigma^2 D'LD,   S = X'LX + I - sigma^2 X'LD C^-1 D'LX.

C is block-diagonal, one block for each set of responses that labels join, so that S costs N p^2 and no matrix
[R, R] is ever formed. Laplace evidence is -objective - 1/2 log det S - 1/2 log det C: in these units the priors'
normalisers have cancelled.

`bgpm.fitting.newton` is the case of one precision and no effects, and stays the code that runs there.

Shapes: N labels, p features, R responses in labelled pairs, G groups of features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bgpm.errors import NumericsError
from bgpm.fitting.incidence import Blocks, Incidence
from bgpm.fitting.newton import (
    BOUNDS,
    HYPERPRIOR_SD,
    MAX_HALVINGS,
    MAX_STEPS,
    PRIOR_SCORE_VARIANCE,
    ROUNDING,
    STEP,
    TOLERANCE,
    FoldRows,
    Loss,
    derivatives,
    own_curvature,
)

NODES = 32  # of Gauss-Hermite quadrature over a score that was not seen
EFFECT_SCORE_VARIANCE = 1.0  # of an average pair's effects in logits squared: where the search for sigma^2 begins


@dataclass(frozen=True)
class MixedFit:
    """The maximum a posteriori.

    Attributes:
        weight: w, [p].
        effect: u of each response in a labelled pair, [R]; zeros where sigma is 0.
        precision: alpha of each group, [G].
        variance: sigma^2.
        log_evidence: Laplace evidence, up to a constant, in nats.
    """

    weight: Tensor
    effect: Tensor
    precision: Tensor
    variance: float
    log_evidence: float


@dataclass(frozen=True)
class _State:
    """Where Newton's method stands: coordinates, objective, the labels' derivatives."""

    z: Tensor
    t: Tensor
    value: float
    first: Tensor
    second: Tensor


class MixedProblem:
    """min over w, u of the labels' loss plus the priors', for any precisions and variance, warm-started.

    Args:
        x: [N, p].
        loss: Loss of each label as a function of the scores.
        group: int64 [p], each feature's group, 0 .. G - 1.
        incidence: Of the pairs' responses; only read where a variance is not 0.
        anchor: [p], where the weights' prior is centred; zero by default.
        effect_anchor: [R], likewise for the effects.
        offset: [N], a known part of the scores; zero by default.
    """

    def __init__(
        self,
        x: Tensor,
        loss: Loss,
        group: Tensor,
        incidence: Incidence,
        *,
        anchor: Tensor | None = None,
        effect_anchor: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> None:
        self.x, self.loss, self.group, self.incidence = x, loss, group, incidence
        self.anchor = x.new_zeros(x.shape[1]) if anchor is None else anchor
        self.effect_anchor = x.new_zeros(len(incidence.rows)) if effect_anchor is None else effect_anchor
        self.offset = x @ self.anchor + (0 if offset is None else offset)
        square = x.square().mean(0)
        scale = square.new_zeros(int(group.max()) + 1).index_add_(0, group, square)
        self.scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        self._weight, self._effect = self.anchor.clone(), self.effect_anchor.clone()

    def solve(self, precision: Tensor, variance: float) -> MixedFit:
        """The maximum a posteriori under these precisions [G] and this variance, by Newton with backtracking.

        Raises:
            NumericsError: If it does not converge.
        """
        root = precision[self.group].sqrt()
        x, basis = self.x / root, None
        if len(x) < x.shape[1]:  # outside the row space weights keep their prior
            basis, upper = torch.linalg.qr(x.T)
            x = upper.T
        self._scaled, self._sigma = x, math.sqrt(variance)
        self._base = self.offset + self.incidence.across(self.effect_anchor) if variance else self.offset
        z = root * (self._weight - self.anchor)
        t = torch.zeros_like(self._effect)
        if variance:
            t = (self._effect - self.effect_anchor) / self._sigma
        at = self._evaluate(z if basis is None else basis.T @ z, t)
        for _ in range(MAX_STEPS):
            try:
                system = self._system(at.second)
            except _NotPositive:
                fisher = own_curvature(self.loss, self._score(at))
                if fisher is None:
                    raise self._stuck(precision, variance, "its curvature is not positive") from None
                system = self._system(fisher)
            slope_z, slope_t = self._slopes(at)
            step_z, step_t = system.solve(-slope_z, -slope_t)
            slope = (slope_z @ step_z + slope_t @ step_t).item()
            if -slope / 2 <= TOLERANCE:
                break
            at = self._step(at, step_z, step_t, slope, precision, variance)
        else:
            raise self._stuck(precision, variance, f"{MAX_STEPS} steps were not enough")
        self._at = _State(at.z + step_z, at.t + step_t, at.value, at.first, at.second)
        self._final = system
        inside = self._at.z if basis is None else basis @ self._at.z
        self._weight = self.anchor + inside / root
        self._effect = self.effect_anchor + self._sigma * self._at.t
        evidence = -at.value - system.half_log_det()
        return MixedFit(self._weight, self._effect, precision, variance, evidence)

    def left_out(self, splits: Sequence[FoldRows]) -> tuple[Tensor, Tensor]:
        """Mean and variance by effects, [N] each, of every held-out label's score without its fold: one Newton step.

        After the last `solve`. A fold of whole prompts leaves their effects at the prior: mean 0 and twice sigma^2.
        The variance of the weights is left out, as it is where precisions are chosen without effects.
        """
        mean, variance = self._score(self._at).clone(), torch.zeros_like(self._at.first)
        for _, held in splits:
            system, step_z, step_t = self._without(held)
            mean[held] = self._base[held] + self._scaled[held] @ (self._at.z + step_z)
            if self._sigma:
                mean[held] += self._sigma * self.incidence.across(self._at.t + step_t)[held]
                variance[held] = self._sigma**2 * spread(self.incidence, system.blocks.inverse())[held]
        return mean, variance

    def held_out_loss(self, splits: Sequence[FoldRows]) -> float:
        """Loss of the held-out labels of all folds, in nats, their scores averaged over the effects."""
        mean, variance = self.left_out(splits)
        tested = torch.cat([held for _, held in splits])
        return expected_loss(self.loss, mean, variance)[tested].sum().item()

    def left_out_one_by_one(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, [N] each, of every label's score had that label alone not been there.

        The cavity of the Gaussian posterior after the last `solve` (A. Vehtari et al., "Bayesian leave-one-out
        cross-validation approximations for Gaussian latent variable models", JMLR 2016): what other labels say of a
        pair of a known prompt. Labels that were acquired near the decision boundary look like coin tosses and are no
        sample of the pool: what is chosen by them is biased.
        """
        posterior = self._final.variances()
        curvature = self._final.curvature.clamp_min(0)
        variance = posterior / (1 - curvature * posterior).clamp_min(1e-9)
        return self._score(self._at) + variance * self._at.first, variance

    def one_by_one_loss(self) -> float:
        """Loss of every label by the other labels, in nats, averaged over what they leave open."""
        return expected_loss(self.loss, *self.left_out_one_by_one()).sum().item()

    def _without(self, held: Tensor) -> tuple[_System, Tensor, Tensor]:
        second = self._at.second.clone()
        second[held] = 0
        try:
            system = self._system(second)
        except _NotPositive:
            fisher = own_curvature(self.loss, self._score(self._at))
            if fisher is None:
                raise
            fisher[held] = 0
            system = self._system(fisher)
        first = torch.zeros_like(self._at.first)
        first[held] = self._at.first[held]
        return system, *system.solve(self._scaled.T @ first, self._sigma * self.incidence.back(first))

    def _system(self, curvature: Tensor) -> _System:
        return _System.of(self._scaled, self.incidence, curvature, self._sigma)

    def _slopes(self, at: _State) -> tuple[Tensor, Tensor]:
        slope_z = self._scaled.T @ at.first + at.z
        return slope_z, self._sigma * self.incidence.back(at.first) + at.t if self._sigma else torch.zeros_like(at.t)

    def _score(self, at: _State) -> Tensor:
        linear = self._base + self._scaled @ at.z
        return linear + self._sigma * self.incidence.across(at.t) if self._sigma else linear

    def _evaluate(self, z: Tensor, t: Tensor) -> _State:
        bare = torch.empty(0)
        value, first, second = derivatives(self.loss, self._score(_State(z, t, 0.0, bare, bare)))
        return _State(z, t, (value.sum() + (z.square().sum() + t.square().sum()) / 2).item(), first, second)

    def _step(
        self, at: _State, step_z: Tensor, step_t: Tensor, slope: float, precision: Tensor, variance: float
    ) -> _State:
        """The longest of the steps 1, 1/2, 1/4, ... that lowers the objective enough."""
        for halvings in range(MAX_HALVINGS):
            length = 0.5**halvings
            trial = self._evaluate(at.z + length * step_z, at.t + length * step_t)
            if trial.value <= at.value + 1e-4 * length * slope + ROUNDING * abs(at.value):
                return trial
        raise self._stuck(precision, variance, "no step along Newton's direction lowers the objective")

    def _stuck(self, precision: Tensor, variance: float, why: str) -> NumericsError:
        named = ", ".join(f"{alpha:.3g}" for alpha in precision.tolist())
        return NumericsError(
            f"Newton's method did not converge on {len(self.x)} labels at prior precision {named} and response "
            f"variance {variance:.3g}: {why}; set a larger prior_precision, and use features whose mean square is "
            "about 1"
        )


class _NotPositive(Exception):
    """A block of the curvature is not positive definite."""


@dataclass(frozen=True)
class _System:
    """Newton's matrix in whitened coordinates, by its Schur complement on the weights.

    Attributes:
        x: [N, r].
        incidence: Of responses.
        curvature: L, [N].
        sigma: Standard deviation of the effects.
        root: Cholesky factor of S, [r, r].
        blocks: C.
        coupling: sigma D'LX, [R, r].
    """

    x: Tensor
    incidence: Incidence
    curvature: Tensor
    sigma: float
    root: Tensor
    blocks: Blocks
    coupling: Tensor

    @classmethod
    def of(cls, x: Tensor, incidence: Incidence, curvature: Tensor, sigma: float) -> _System:
        weighted = curvature[:, None] * x
        matrix = x.T @ weighted
        matrix.diagonal().add_(1.0)
        blocks, coupling = Blocks(incidence, [], False), x.new_zeros(0, x.shape[1])
        if sigma:
            blocks, coupling = incidence.blocks(curvature, sigma**2), sigma * incidence.back(weighted)
            if blocks.failed:
                raise _NotPositive
            half = blocks.half(coupling)
            matrix -= half.T @ half
        root, failed = torch.linalg.cholesky_ex(matrix)
        if failed:
            raise _NotPositive
        return cls(x, incidence, curvature, sigma, root, blocks, coupling)

    def solve(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """H^-1 (z, t)."""
        if not self.sigma:
            return torch.cholesky_solve(z[:, None], self.root)[:, 0], torch.zeros_like(t)
        step = torch.cholesky_solve((z - self.coupling.T @ self.blocks.solve(t))[:, None], self.root)[:, 0]
        return step, self.blocks.solve(t - self.coupling @ step)

    def half_log_det(self) -> float:
        """Half the log determinant of H."""
        return self.root.diagonal().log().sum().item() + self.blocks.half_log_det()

    def variances(self) -> Tensor:
        """Posterior variance of every labelled pair's score, [N]."""
        x = self.x
        if self.sigma:
            x = x - self.sigma * self.incidence.across(self.blocks.solve(self.coupling))
        weights = torch.linalg.solve_triangular(self.root, x.T, upper=False).square().sum(0)
        return weights + self.sigma**2 * spread(self.incidence, self.blocks.inverse()) if self.sigma else weights


def spread(incidence: Incidence, inverse: Tensor) -> Tensor:
    """d' C^-1 d of every labelled pair, [N], from C^-1 laid out flat; 0 for a response against itself."""
    start, local, size = incidence.layout()

    def at(a: Tensor, b: Tensor) -> Tensor:
        return inverse[start[a] + local[a] * size[a] + local[b]]

    i, j = incidence.response_a, incidence.response_b
    return at(i, i) + at(j, j) - 2 * at(i, j)


def expected_loss(loss: Loss, mean: Tensor, variance: Tensor) -> Tensor:
    """-log E exp(-loss(s)) of each label for s ~ N(mean, variance), [N], in nats; the plain loss at no variance."""
    if not variance.any():
        return loss(mean)
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    sd = variance.sqrt()
    each = [loss(mean + node * sd) - math.log(w) for node, w in zip(nodes.tolist(), weights.tolist(), strict=True)]
    return math.log(math.sqrt(2 * math.pi)) - torch.logsumexp(-torch.stack(each), 0)


ACCEPT = 0.5  # nats by which a variance has to be better than none


@dataclass(frozen=True)
class Search:
    """Chooses precisions and variance; what is a number stays what it is.

    Attributes:
        precision: ``heldout``, ``evidence`` or a number for every group.
        variance: ``auto``, by the loss of every label under the others; ``evidence``; or a number.
        splits: Folds by prompt, for ``heldout``; without any it is ``evidence``.
        tau: Temperature of the likelihood: the unit of the scores that the search begins with.
    """

    precision: str | float
    variance: str | float
    splits: Sequence[FoldRows]
    tau: float = 1.0

    def __call__(self, problem: MixedProblem) -> MixedFit:
        """Coordinate ascent on a logarithmic grid, each step then to a parabola's peak; deterministic.

        Precisions are chosen together, at no variance first; then the variance at these precisions; where it is better
        than none by `ACCEPT`, precisions again and the variance once more.
        """
        groups = len(problem.scale)
        steps: tuple[float, ...] = (0.0,) * groups
        variance = 0.0 if isinstance(self.variance, str) else self.variance
        if not isinstance(self.variance, str) or not problem.incidence.recurs:
            return problem.solve(self._precision(problem, self._steps(problem, steps, variance)), variance)
        steps, chosen = self._steps(problem, steps, 0.0), 0.0
        for _ in range(2):
            precision = self._precision(problem, steps)
            chosen = self._variance(problem, precision)
            if not chosen:
                steps = self._steps(problem, steps, 0.0)
                break
            steps = self._steps(problem, steps, chosen)
        return problem.solve(self._precision(problem, steps), chosen)

    def _precision(self, problem: MixedProblem, steps: tuple[float, ...]) -> Tensor:
        if not isinstance(self.precision, str):
            return torch.full_like(problem.scale, self.precision)
        each = PRIOR_SCORE_VARIANCE * self.tau**2 / len(steps)
        return problem.scale / (each * torch.tensor(STEP, dtype=torch.float64) ** torch.tensor(steps))

    def _steps(self, problem: MixedProblem, start: tuple[float, ...], variance: float) -> tuple[float, ...]:
        if not isinstance(self.precision, str):
            return start
        by_evidence = self.precision == "evidence" or not self.splits

        def worth(steps: tuple[float, ...]) -> float:
            fit = problem.solve(self._precision(problem, steps), variance)
            return fit.log_evidence if by_evidence else -problem.held_out_loss(self.splits)

        return climb(worth, start)

    def _variance(self, problem: MixedProblem, precision: Tensor) -> float:
        unit = EFFECT_SCORE_VARIANCE / 2 * self.tau**2

        def worth(variance: float) -> float:
            fit = problem.solve(precision, variance)
            return fit.log_evidence if self.variance == "evidence" else -problem.one_by_one_loss()

        (step,) = climb(lambda steps: worth(unit * STEP ** steps[0]), (0.0,))
        chosen = unit * STEP**step
        return chosen if worth(chosen) > worth(0.0) + ACCEPT else 0.0


def climb(worth: Callable[[tuple[float, ...]], float], start: tuple[float, ...]) -> tuple[float, ...]:
    """Steps of highest worth plus a weak log-normal hyperprior around 0, on a grid, then to each parabola's peak.

    Along every coordinate and, where there are several, along all of them together, until nothing is better.
    """
    tried: dict[tuple[float, ...], float] = {}
    low, high = (math.log(bound / PRIOR_SCORE_VARIANCE) / math.log(STEP) for bound in BOUNDS)

    def at(steps: tuple[float, ...]) -> float:
        if not all(low <= k <= high for k in steps):
            return -math.inf
        if steps not in tried:
            away = sum((k * math.log(STEP) / HYPERPRIOR_SD) ** 2 for k in steps) / 2
            tried[steps] = worth(steps) - away
        return tried[steps]

    def moved(steps: tuple[float, ...], which: range, by: float) -> tuple[float, ...]:
        return tuple(k + by if n in which else k for n, k in enumerate(steps))

    count, best = len(start), start
    directions = [range(n, n + 1) for n in range(count)]
    if count > 1:
        directions.insert(0, range(count))
    while True:
        before = best
        for which in directions:
            while at(up := max((moved(best, which, by) for by in (-1.0, 1.0)), key=at)) > at(best):
                best = up
        if best == before:
            break
    for which in directions[-count:]:
        down, here, up = (at(moved(best, which, by)) for by in (-1.0, 0.0, 1.0))
        bend = down - 2 * here + up
        if math.isfinite(bend) and bend < 0:
            best = max((best, moved(best, which, (down - up) / (2 * bend))), key=at)
    return best
