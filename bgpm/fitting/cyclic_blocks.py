"""Forward selection of cyclic blocks by cross-validated likelihood.

A cyclic block adds P'(phi_i phi_j' - phi_j phi_i')Q to the score. Zero is a trap: at P = Q = 0 its gradient, its
Gauss-Newton curvature and its linearised variance all vanish, and above alpha = sigma_1(G), with
G = sum_n (y_n - p_n) / tau (phi_i phi_j' - phi_j phi_i'), zero is a local minimum. So a block is

1. *screened*: the leading singular pair of G of the training folds has to predict the held-out folds'
   residuals (a score test with one degree of freedom; no block is fitted yet),
2. *started* from that pair, at precisions below sigma_1(G),
3. *accepted* where the cross-validated log-likelihood rises by more than one standard error.

Evidence is no judge here: it does not see the volume of the gauge orbit v -> Q v. Folds keep prompts whole.

Shapes: N labels, p features, rows of W: the reward first, then P and Q of every block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bgpm.fitting.lbfgs import DataLoss, OnData, minimise
from bgpm.fitting.newton import FoldRows, LinearFit, LinearProblem, derivatives, gauss_newton
from bgpm.fitting.tensors import LabelledTensors
from bgpm.models import Model
from bgpm.networks import GeneralPreference, ScoreModule

SCREEN = 2.0  # standard errors of the score test below which no block is fitted
ACCEPT = 1.0  # standard errors by which the cross-validated log-likelihood has to rise
SHARES = (1 / 2, 1 / 8, 1 / 32)  # of sigma_1(G): precisions tried for a block
ENOUGH = 1000  # held-out labels that settle a question: further folds are left out
SWEEPS = 8  # of subspace iteration: twice as many powers of G


@dataclass(frozen=True)
class Pair:
    """A singular pair of G: G right = value * left; left and right [p] are orthogonal unit vectors."""

    value: float
    left: Tensor
    right: Tensor

    def wedge(self, data: LabelledTensors) -> Tensor:
        """left'(phi_i phi_j' - phi_j phi_i') right of every labelled pair, [N]."""
        plane = torch.stack([self.left, self.right], 1)
        one, two = data.response_a @ plane, data.response_b @ plane
        return one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]

    def start(self, data: LabelledTensors, tau: float) -> Tensor:
        """Rows P and Q, [2, p], of a block along this pair that moves scores by about one logit."""
        spread = self.wedge(data).square().mean().sqrt().item()
        return torch.stack([self.left, self.right]) * (max(spread, 1e-12) ** -0.5 * tau**0.5)


def leading_pairs(data: LabelledTensors, residual: Tensor, count: int, *, generator: torch.Generator) -> list[Pair]:
    """Leading singular pairs of G = sum_n e_n (phi_i phi_j' - phi_j phi_i'), without forming it.

    G is skew: its singular values come in twos, and each two belong to one plane, which is one block.

    Args:
        data: The labelled pairs.
        residual: e, minus the derivative of each label's loss in its score, [N].
        count: How many planes, at most p / 2.
        generator: Draws the starting subspace.
    """
    e = residual[:, None]

    def g(q: Tensor) -> Tensor:
        return data.response_a.T @ (e * (data.response_b @ q)) - data.response_b.T @ (e * (data.response_a @ q))

    p = data.response_a.shape[1]
    q = leading_subspace(lambda q: g(g(q)), p, 2 * count + 2, generator=generator)
    left, values, right = torch.linalg.svd(q.T @ g(q))
    return [Pair(values[k].item(), q @ left[:, k], q @ right[k]) for k in range(0, min(2 * count, len(values) - 1), 2)]


def leading_subspace(apply: Callable[[Tensor], Tensor], p: int, k: int, *, generator: torch.Generator) -> Tensor:
    """An orthonormal basis [p, min(k, p)] near the leading eigenvectors of a symmetric map, by subspace iteration."""
    q = torch.randn(p, min(k, p), generator=generator, dtype=torch.float64)
    for _ in range(SWEEPS):
        q = torch.linalg.qr(apply(q))[0]
    return q


@dataclass(frozen=True)
class FoundBlocks:
    """Weights, with the cyclic blocks that were accepted.

    Attributes:
        weight: [1 + 2 blocks, p].
        precision: Prior precision of each row, [1 + 2 blocks].
        screen: Score test of the first block, in standard errors.
        gain: Cross-validated log-likelihood gained by each accepted block, in nats a label.
        by_fold: Weights of every fold's training labels, once a block was compared.
    """

    weight: Tensor
    precision: Tensor
    screen: float
    gain: tuple[float, ...]
    by_fold: tuple[Tensor, ...] = ()

    @property
    def blocks(self) -> int:
        return (len(self.weight) - 1) // 2


def search(
    model: Model,
    data: LabelledTensors,
    loss: DataLoss,
    problem: LinearProblem,
    weight: Tensor,
    precision: float,
    splits: list[FoldRows],
    *,
    generator: torch.Generator,
) -> FoundBlocks:
    """Add cyclic blocks to a fitted Bradley-Terry model, one at a time, while held-out likelihood rises.

    Args:
        model: Gives the largest number of blocks.
        data: Labelled pairs.
        loss: The loss of each label.
        problem: The Bradley-Terry problem, solved at ``weight`` and ``precision``.
        splits: Rows of training and held-out labels, by prompt.
        generator: Draws the starting subspaces.
    """
    found = FoundBlocks(weight[None], torch.tensor([precision], dtype=torch.float64), 0.0, ())
    splits = enough(splits)
    by_fold = [problem.without(held)[None] for _, held in splits]
    while splits and found.blocks < min(model.cyclic_blocks, data.response_a.shape[1] // 2):
        test = _score_test(data, loss, by_fold, splits, generator)
        if not found.blocks:
            found = replace(found, screen=test)
        if test < SCREEN:
            break
        if not found.blocks:  # one Newton step is good enough to screen, not to be compared with
            by_fold = [_reward_alone(data.take(train), loss, precision) for train, _ in splits]
        larger = _compare(data, loss, found, by_fold, splits, generator)
        if larger is None:
            break
        found, by_fold = larger, list(larger.by_fold)
    return found


def enough(splits: list[FoldRows]) -> list[FoldRows]:
    """The first folds, as many as hold out a thousand labels together; all of them where there are fewer."""
    held = np.cumsum([len(rows) for _, rows in splits])
    return splits[: int(np.searchsorted(held, ENOUGH)) + 1]


def _reward_alone(data: LabelledTensors, loss: DataLoss, precision: float) -> Tensor:
    return LinearProblem(data.response_a - data.response_b, OnData(loss, data)).solve(precision).weight[None]


def module_of(weight: Tensor, **options: bool) -> GeneralPreference:
    """A module with these weights [1 + 2 blocks, p]."""
    module = GeneralPreference(
        weight.shape[1], blocks=(len(weight) - 1) // 2, generator=torch.Generator().manual_seed(0), **options
    )
    with torch.no_grad():
        module.weight.copy_(weight)
    return module


def scores(weight: Tensor, data: LabelledTensors) -> Tensor:
    """Scores of labelled pairs under weights without gates, [N]."""
    with torch.no_grad():
        return module_of(weight)(data.response_a, data.response_b)


def _score_test(
    data: LabelledTensors, loss: DataLoss, by_fold: list[Tensor], splits: list[FoldRows], generator: torch.Generator
) -> float:
    total = spread = 0.0
    for weight, (train, held) in zip(by_fold, splits, strict=True):
        seen, unseen = data.take(train), data.take(held)
        pair = _residual_pair(seen, loss, weight, generator)
        _, slope, curvature = gauss_newton(OnData(loss, unseen), scores(weight, unseen))
        t = pair.wedge(unseen)
        total -= (slope @ t).item()
        spread += (curvature @ t.square()).item()
    return total / spread**0.5 if spread > 0 else 0.0


def _residual_pair(data: LabelledTensors, loss: DataLoss, weight: Tensor, generator: torch.Generator) -> Pair:
    _, slope, _ = derivatives(OnData(loss, data), scores(weight, data))
    return leading_pairs(data, -slope, 1, generator=generator)[0]


def _compare(
    data: LabelledTensors,
    loss: DataLoss,
    found: FoundBlocks,
    by_fold: list[Tensor],
    splits: list[FoldRows],
    generator: torch.Generator,
) -> FoundBlocks | None:
    """One more block on all labels and on every fold, or None where it does not help."""
    pair = _residual_pair(data, loss, found.weight, generator)
    precisions = [share * pair.value for share in SHARES]
    gain = torch.zeros(len(precisions), len(data), dtype=torch.float64)
    paths = []
    for weight, (train, held) in zip(by_fold, splits, strict=True):
        seen, unseen = data.take(train), data.take(held)
        before = loss(scores(weight, unseen), unseen)
        start = _residual_pair(seen, loss, weight, generator)
        paths.append(_path(seen, loss, weight, found.precision, precisions, start))
        for k, after in enumerate(paths[-1]):
            gain[k, held] = before - loss(scores(after, unseen), unseen)
    tested = torch.cat([held for _, held in splits])
    best = int(gain.sum(1).argmax())
    by_prompt = _sum_by_group(gain[best, tested], data.group[tested.numpy()])
    error = by_prompt.std() * len(by_prompt) ** 0.5 if len(by_prompt) > 1 else float("inf")
    if not by_prompt.sum() > ACCEPT * error:
        return None
    weight = _path(data, loss, found.weight, found.precision, precisions[: best + 1], pair)[-1]
    precision = torch.cat([found.precision, torch.full((2,), precisions[best], dtype=torch.float64)])
    return FoundBlocks(
        weight,
        precision,
        found.screen,
        (*found.gain, gain[best, tested].mean().item()),
        tuple(path[best] for path in paths),
    )


def _path(
    data: LabelledTensors, loss: DataLoss, weight: Tensor, precision: Tensor, precisions: list[float], pair: Pair
) -> list[Tensor]:
    """Weights with one more block, started from a singular pair, at each precision from strong to weak."""
    module = module_of(torch.cat([weight, pair.start(data, loss.tau)]))
    path = []
    for alpha in precisions:
        rows = torch.cat([precision, torch.full((2,), alpha, dtype=torch.float64)])
        minimise(module, data, loss, {"weight": rows[:, None]}, tolerance=1e-6)
        path.append(module.weight.detach().clone())
    return path


def gate_precision(data: LabelledTensors) -> Tensor:
    """Prior precision of gate weights that gives a gate's logit unit variance at the average prompt, []."""
    assert data.prompt is not None, "a module with gates is fitted to data with prompts"
    return data.prompt.square().sum(-1).mean().clamp_min(1e-12)


def _sum_by_group(values: Tensor, group: np.ndarray) -> Tensor:
    names, member = np.unique(group, return_inverse=True)
    if len(names) == 1:
        return values
    return torch.zeros(len(names), dtype=values.dtype).index_add_(0, torch.from_numpy(member), values)


def refine(
    model: Model,
    data: LabelledTensors,
    loss: DataLoss,
    found: FoundBlocks,
    choose: Callable[[LinearProblem], LinearFit],
) -> tuple[ScoreModule, dict[str, Tensor]]:
    """All weights together, gates too where the model has them, once the number of blocks is known.

    Args:
        choose: Chooses the reward's prior precision again: before the blocks, what they explain was noise.

    Returns:
        The module and the prior precision of its parameters.
    """
    weight, precision = found.weight.clone(), found.precision.clone()
    weight[0] = 0.0
    linear = choose(LinearProblem(data.response_a - data.response_b, OnData(loss, data), offset=scores(weight, data)))
    weight[0], precision[0] = linear.weight, linear.precision
    module = module_of(weight, prompt_gates=getattr(model, "prompt_gates", False))
    priors: dict[str, Tensor] = {"weight": precision[:, None]}
    if module.gate_weight is not None:
        priors["gate_weight"] = gate_precision(data)
    minimise(module, data, loss, priors)
    return module, priors
