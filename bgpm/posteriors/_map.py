"""Maximum a posteriori of any preference model: what `point`, `laplace` and `ensemble` share.

A model that contains Bradley-Terry is fitted as Bradley-Terry first: a convex problem, solved by damped
Newton steps, its prior precision chosen by evidence or held-out likelihood. Free blocks then have to earn
their place (`bgpm.posteriors._blocks`). Any other model is fitted by L-BFGS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from bgpm import functional as F
from bgpm.heads import Head
from bgpm.heads._modules import GeneralPreference, HeadModule
from bgpm.posteriors._blocks import enough, leading_pairs, module_of, refine, search
from bgpm.posteriors._data import Labelled, folds
from bgpm.posteriors._lbfgs import minimise
from bgpm.posteriors._newton import LinearFit, LinearProblem, Split, derivatives
from bgpm.posteriors._settings import MapSettings

# Strong to weak. Free blocks: shares of sigma_1(G), above which zero is a minimum. Elsewhere the weights start
# at unit scale, and these are multiples of the precision that says so.
BLOCK_SHARES = (1 / 2, 1 / 8, 1 / 32, 1 / 128)
UNIT_MULTIPLES = (64.0, 16.0, 4.0, 1.0)
LEARNT_TAU, LEARNT_PRECISION = 0.1, 4.0  # centre and precision of the log-normal prior of a learnt temperature
TAUS = torch.logspace(-1, 1, 81, dtype=torch.float64)  # multiples of 1 compared when tau is calibrated

Scorer = Callable[[Labelled], Tensor]


@dataclass(frozen=True)
class PairLoss:
    """The loss of labelled pairs under a posterior's settings: scores [N] and data to nats [N].

    Attributes:
        settings: Kind of loss, margin, ties.
        tau: Temperature.
        log_tau: A parameter that takes the place of ``tau`` while it is learnt.
        weight: [N], how often each label counts; 1 by default.
    """

    settings: MapSettings
    tau: float
    log_tau: nn.Parameter | None = None
    weight: Tensor | None = None

    def __call__(self, score: Tensor, data: Labelled) -> Tensor:
        loss = F.pairwise_loss(
            score,
            data.label,
            tau=self.tau if self.log_tau is None else self.log_tau.exp(),
            margin=data.margin,
            kind=self.settings.loss,
            tie_width=self.settings.tie_width if self.settings.loss == "rao_kupper" else None,
        )
        return loss if self.weight is None else self.weight * loss


@dataclass(frozen=True)
class MapFit:
    """A fitted module and what a posterior around it needs.

    Attributes:
        module: The fitted head.
        priors: Prior precision of every parameter of the module, broadcast to its shape.
        centre: Where the prior of all parameters is centred, one vector, or None for zero.
        loss: The loss it was fitted to.
        tau: Temperature of predictions: the loss's, unless calibrated.
        blocks_off: Free blocks that are switched off.
        summary: What was learnt in numbers.
    """

    module: HeadModule
    priors: dict[str, Tensor | float]
    centre: Tensor | None
    loss: PairLoss
    tau: float
    blocks_off: int
    summary: dict[str, float | int | str]

    @property
    def row_precision(self) -> Tensor:
        """Prior precision of each row of the last layer's weights, [D]."""
        precision = torch.as_tensor(self.priors["weight"], dtype=torch.float64)
        return precision.expand(len(self.module.weight), 1)[:, 0].clone()


def fit_map(settings: MapSettings, head: Head, data: Labelled, *, seed: int) -> MapFit:
    """Train a head from scratch on all labels.

    Raises:
        ConfigError: If the settings do not fit the head.
        NumericsError: If an optimiser does not converge.
    """
    settings.check(head)
    loss = PairLoss(settings, 1.0 if isinstance(settings.tau, str) else float(settings.tau))
    splits = enough(folds(data.group, settings.folds, generator=np.random.default_rng(seed)))
    generator = torch.Generator().manual_seed(seed)
    fit = _containing_bt if head.contains_bt else _free
    return fit(settings, head, data, loss, splits, generator)


def score(module: HeadModule, data: Labelled) -> Tensor:
    """Scores of labelled pairs, [N], without a graph."""
    with torch.no_grad():
        return module(data.first, data.second, data.prompt)


def _containing_bt(
    settings: MapSettings, head: Head, data: Labelled, loss: PairLoss, splits: list[Split], generator: torch.Generator
) -> MapFit:
    problem = LinearProblem(data.first - data.second, partial(loss, data=data))

    def choose(problem: LinearProblem) -> LinearFit:
        if settings.prior_precision == "heldout":
            return problem.by_heldout(splits)
        return problem.by_evidence() if settings.prior_precision == "evidence" else problem.solve(settings.prior_precision)

    linear = choose(problem)
    found = search(head, data, loss, problem, linear.weight, linear.precision, splits, generator=generator)
    if found.blocks:
        module, priors = refine(head, data, loss, found, choose)
    else:
        module, priors = module_of(found.weight), {"weight": found.precision[:, None]}
    tau = loss.tau
    if settings.tau == "heldout":
        weights = found.by_fold or [problem.without(held)[None] for _, held in splits]
        scored = [module_of(weight) for weight in weights]
        tau = _calibrated(loss, data, splits, [partial(score, module) for module in scored])
    summary = {
        "tau": tau,
        "prior_precision": priors["weight"][0].item(),
        "blocks_active": found.blocks,
        "blocks_possible": head.free_blocks,
        "block_screen": found.screen,
    }
    if found.blocks:
        summary["block_precision"] = priors["weight"][1].item()
        summary["block_gain"] = sum(found.gain)
    return MapFit(module, priors, None, loss, tau, head.free_blocks - found.blocks, summary)


def _free(
    settings: MapSettings, head: Head, data: Labelled, loss: PairLoss, splits: list[Split], generator: torch.Generator
) -> MapFit:
    """A model whose loss is not convex: every candidate precision from the same start, the best on held-out prompts."""
    start = head.build(data.first.shape[1], generator=generator)
    scale_free = getattr(start, "normalize", False)
    if isinstance(start, GeneralPreference) and not scale_free:
        unit, multiples = _start_from_pairs(start, data, loss, generator), BLOCK_SHARES
    else:
        unit, multiples = float(start.weight.shape[1]), UNIT_MULTIPLES

    def priors(precision: float) -> dict[str, Tensor | float]:
        named = {name: float(parameter.shape[-1]) for name, parameter in start.named_parameters()}
        if "gate_weight" in named:
            named["gate_weight"] = max(data.prompt.square().sum(-1).mean().item(), 1e-12)
        return {**named, "bias": 1.0, "weight": precision}

    # where the scale of the weights changes no score, a prior at zero has no minimum: it is centred on the start
    centre = parameters_to_vector(start.parameters()).detach() if scale_free else None

    def fit(part: Labelled, precision: float) -> tuple[HeadModule, PairLoss]:
        module = _copy(head, start, data)
        objective = loss
        extra = {}
        if settings.tau == "learn":
            objective = replace(loss, log_tau=nn.Parameter(torch.tensor(math.log(LEARNT_TAU), dtype=torch.float64)))
            extra = {objective.log_tau: (math.log(LEARNT_TAU), LEARNT_PRECISION)}
        minimise(module, part, objective, priors(precision), centre=centre, extra=extra)
        if objective.log_tau is not None:
            objective = replace(loss, tau=objective.log_tau.exp().item())
        return module, objective

    if isinstance(settings.prior_precision, str):
        candidates = [unit * multiple for multiple in multiples]
    else:
        candidates = [float(settings.prior_precision)]
    by_fold = [[fit(data.take(train), precision) for train, _ in splits] for precision in candidates]
    total = [
        sum(
            (objective(score(module, data.take(held)), data.take(held)).sum().item())
            for (module, objective), (_, held) in zip(fits, splits, strict=True)
        )
        for fits in by_fold
    ]
    best = int(np.argmin(total)) if splits else len(candidates) // 2
    module, objective = fit(data, candidates[best])
    tau = objective.tau
    if settings.tau == "heldout":
        tau = _calibrated(objective, data, splits, [partial(score, part) for part, _ in by_fold[best]])
    summary = {"tau": tau, "prior_precision": candidates[best]}
    if head.free_blocks:
        summary |= {"blocks_active": head.free_blocks, "blocks_possible": head.free_blocks}
    return MapFit(module, priors(candidates[best]), centre, objective, tau, 0, summary)


def _start_from_pairs(module: GeneralPreference, data: Labelled, loss: PairLoss, generator: torch.Generator) -> float:
    """Put every block at a leading singular pair of G at zero, and return sigma_1(G)."""
    _, slope, _ = derivatives(partial(loss, data=data), torch.zeros_like(data.label))
    seen = replace(data, first=module.inputs(data.first), second=module.inputs(data.second))
    pairs = leading_pairs(seen, -slope, module.blocks, generator=generator)
    with torch.no_grad():
        for block, pair in enumerate(pairs):
            module.weight[2 * block : 2 * block + 2] = pair.start(seen)
    return max([1e-12, *(pair.value for pair in pairs)])


def _copy(head: Head, module: HeadModule, data: Labelled) -> HeadModule:
    twin = head.build(data.first.shape[1], generator=torch.Generator())
    twin.load_state_dict(module.state_dict())
    return twin


def _calibrated(loss: PairLoss, data: Labelled, splits: list[Split], scorers: Sequence[Scorer]) -> float:
    """The temperature at which held-out scores of the folds' models have the highest likelihood."""
    if not splits:
        return loss.tau
    total = torch.zeros(len(TAUS), dtype=torch.float64)
    for scorer, (_, held) in zip(scorers, splits, strict=True):
        unseen = data.take(held)
        scored = scorer(unseen)
        for k, tau in enumerate((loss.tau * TAUS).tolist()):
            total[k] += replace(loss, tau=tau)(scored, unseen).sum()
    return loss.tau * TAUS[int(total.argmin())].item()
