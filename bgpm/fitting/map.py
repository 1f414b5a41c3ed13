"""Maximum a posteriori of any preference model: what `point`, `laplace` and `ensemble` share.

A model that contains Bradley-Terry is fitted as Bradley-Terry first: a convex problem, solved by damped
Newton steps, its prior precision chosen by evidence or held-out likelihood. Cyclic blocks are then added by
forward selection (`bgpm.fitting.cyclic_blocks`). Any other model is fitted by L-BFGS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from bgpm import functional as F
from bgpm.errors import ConfigError
from bgpm.fitting.cyclic_blocks import (
    FoundBlocks,
    Pair,
    enough,
    gate_precision,
    leading_pairs,
    module_of,
    refine,
    scores,
    search,
)
from bgpm.fitting.effects import WithEffects
from bgpm.fitting.incidence import Incidence
from bgpm.fitting.lbfgs import OnData, minimise
from bgpm.fitting.mixed import MixedFit, MixedProblem, Search, expected_loss
from bgpm.fitting.newton import FoldRows, LinearFit, LinearProblem, derivatives
from bgpm.fitting.tensors import LabelledTensors, folds
from bgpm.models import Model
from bgpm.networks import GeneralPreference, ScoreModule
from bgpm.types import FeatureBlock

if TYPE_CHECKING:
    from bgpm.posteriors import MapSettings

# Strong to weak. Cyclic blocks: shares of sigma_1(G), above which zero is a minimum. Elsewhere the weights start
# at unit scale, in logits, and these are multiples of the precision that says so.
BLOCK_SHARES = (1 / 2, 1 / 8, 1 / 32, 1 / 128)
UNIT_MULTIPLES = (64.0, 16.0, 4.0, 1.0)
LEARNT_TAU, LEARNT_PRECISION = 0.1, 4.0  # centre and precision of the log-normal prior of a learnt temperature
ERROR_RATES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35)  # compared when the error rate is chosen
TAUS = torch.logspace(-1, 1, 81, dtype=torch.float64)  # multiples of 1 compared when tau is calibrated

Scorer = Callable[[LabelledTensors], Tensor]


@dataclass(frozen=True)
class PairLoss:
    """The loss of labelled pairs under a posterior's settings: scores [N] and data to nats [N].

    Attributes:
        settings: Kind of loss, margin, ties.
        tau: Temperature.
        error_rate: Share of wrong labels.
        log_tau: A parameter that takes the place of ``tau`` while it is learnt.
        weight: [N], how often each label counts beside its own weight in the data; 1 by default.
    """

    settings: MapSettings
    tau: float
    error_rate: float = 0.0
    log_tau: nn.Parameter | None = None
    weight: Tensor | None = None

    def __call__(self, score: Tensor, data: LabelledTensors) -> Tensor:
        return self._weighted(F.pairwise_loss(score, data.label, **self._options(data)), data)

    def curvature(self, score: Tensor, data: LabelledTensors) -> Tensor | None:
        """Fisher information of each label about its score where labels err; the loss is convex where they do not."""
        return self._weighted(F.fisher_curvature(score, **self._options(data)), data) if self.error_rate else None

    def _options(self, data: LabelledTensors) -> dict[str, Any]:
        return {
            "tau": self.tau if self.log_tau is None else self.log_tau.exp(),
            "margin": data.margin,
            "kind": self.settings.loss,
            "tie_width": self.settings.tie_width if self.settings.loss == "rao_kupper" else None,
            "error_rate": self.error_rate,
        }

    def _weighted(self, each: Tensor, data: LabelledTensors) -> Tensor:
        for weight in (data.weight, self.weight):
            each = each if weight is None else weight * each
        return each


@dataclass(frozen=True)
class EffectFit:
    """Deviations of the responses in labelled pairs.

    Attributes:
        incidence: Which responses.
        mean: u of each, [R].
        variance: sigma^2.
    """

    incidence: Incidence
    mean: Tensor
    variance: float


@dataclass(frozen=True)
class MapFit:
    """A fitted module and what a posterior around it needs.

    Attributes:
        module: The fitted model.
        priors: Prior precision of every parameter of the module, broadcast to its shape: of ``weight`` one a row,
            [D, 1], or one a weight, [D, q].
        centre: Where the prior of all parameters is centred, one vector, or None for zero.
        loss: The loss it was fitted to.
        tau: Temperature of predictions: the loss's, unless calibrated.
        blocks_off: Cyclic blocks that are switched off.
        summary: What was learnt in numbers.
        effects: Deviations of responses, or None where there are none.
    """

    module: ScoreModule
    priors: dict[str, Tensor]
    centre: Tensor | None
    loss: PairLoss
    tau: float
    blocks_off: int
    summary: dict[str, float | int | str]
    effects: EffectFit | None = None

    @property
    def weight_precision(self) -> Tensor:
        """Prior precision of the last layer's weights: [D], one a row, or [D, q]."""
        precision = self.priors["weight"]
        if precision.shape[-1] == 1:
            return precision.expand(len(self.module.weight), 1)[:, 0].clone()
        return precision.clone()


def fit_map(
    settings: MapSettings, model: Model, data: LabelledTensors, *, blocks: Sequence[FeatureBlock] = (), seed: int
) -> MapFit:
    """Train a model from scratch on all labels.

    Args:
        blocks: What the columns of the features are; only read for a precision of each block.

    Raises:
        ConfigError: If the settings do not fit the model, or blocks are asked for and there are none.
        NumericsError: If an optimiser does not converge.
    """
    settings.check(model)
    loss, splits = first_loss(settings), splits_of(settings, data, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    if settings.mixed:
        fit = _mixed(settings, model, data, loss, splits, blocks, generator)
    else:
        fit = (_containing_bt if model.contains_bt else _free)(settings, model, data, loss, splits, generator)
    if data.exponent is None:
        return fit
    return replace(fit, summary={**fit.summary, "importance_exponent": data.exponent})


def first_loss(settings: MapSettings) -> PairLoss:
    """The loss before anything of it is chosen or learnt."""
    tau, error_rate = (
        default if isinstance(x, str) else float(x) for x, default in ((settings.tau, 1.0), (settings.error_rate, 0.0))
    )
    return PairLoss(settings, tau, error_rate)


def splits_of(settings: MapSettings, data: LabelledTensors, *, seed: int) -> list[FoldRows]:
    """Folds of every cross-validation; none where there are too few prompts."""
    group = np.arange(len(data)) if settings.fold_by == "pair" else data.group
    return enough(folds(group, settings.folds, generator=np.random.default_rng(seed)))


def score(module: ScoreModule, data: LabelledTensors) -> Tensor:
    """Scores of labelled pairs, [N], without a graph."""
    with torch.no_grad():
        return module(data.response_a, data.response_b, data.prompt)


def _chooser(settings: MapSettings, splits: list[FoldRows], tau: float) -> Callable[[LinearProblem], LinearFit]:
    """How one precision for all features is chosen."""

    def choose(problem: LinearProblem) -> LinearFit:
        if settings.prior_precision == "evidence":
            return problem.by_evidence(tau)
        if isinstance(settings.prior_precision, str):
            return problem.by_heldout(splits, tau)
        return problem.solve(settings.prior_precision)

    return choose


def held_out(
    settings: MapSettings,
    data: LabelledTensors,
    loss: PairLoss,
    splits: list[FoldRows],
    *,
    measured: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """Loss of left-out labels under Bradley-Terry with one precision for all features, chosen as the settings say.

    Args:
        measured: Loss of each label's score, in place of the one that is minimised.
    """
    problem = LinearProblem(data.response_a - data.response_b, OnData(loss, data))
    _chooser(settings, splits, loss.tau)(problem)
    return problem.held_out_loss(splits, measured)


def _with_error_rate(settings: MapSettings, data: LabelledTensors, loss: PairLoss, splits: list[FoldRows]) -> PairLoss:
    """The loss with its error rate chosen, where it is to be."""

    if settings.error_rate == "heldout" and splits:
        compared = [replace(loss, error_rate=rate) for rate in ERROR_RATES]
        loss = min(compared, key=lambda one: held_out(settings, data, one, splits))
    return loss


def _containing_bt(
    settings: MapSettings,
    model: Model,
    data: LabelledTensors,
    loss: PairLoss,
    splits: list[FoldRows],
    generator: torch.Generator,
) -> MapFit:
    choose = _chooser(settings, splits, loss.tau)
    loss = _with_error_rate(settings, data, loss, splits)
    problem = LinearProblem(data.response_a - data.response_b, OnData(loss, data))
    linear = choose(problem)
    found = search(model, data, loss, problem, linear.weight, linear.precision, splits, generator=generator)
    if found.blocks:
        module, priors = refine(model, data, loss, found, choose)
    else:
        module, priors = module_of(found.weight), {"weight": found.precision[:, None]}
    tau = loss.tau
    if settings.tau == "heldout":
        weights = found.by_fold or [problem.without(held)[None] for _, held in splits]
        scored = [module_of(weight) for weight in weights]
        tau = _calibrated(loss, data, splits, [partial(score, module) for module in scored])
    summary: dict[str, float | int | str] = {
        "tau": tau,
        "error_rate": loss.error_rate,
        "prior_precision": priors["weight"][0].item(),
        "blocks_active": found.blocks,
        "blocks_possible": model.cyclic_blocks,
        "block_screen": found.screen,
    }
    if found.blocks:
        summary["block_precision"] = priors["weight"][1].item()
        summary["block_gain"] = sum(found.gain)
    return MapFit(module, priors, None, loss, tau, model.cyclic_blocks - found.blocks, summary)


def _mixed(
    settings: MapSettings,
    model: Model,
    data: LabelledTensors,
    loss: PairLoss,
    splits: list[FoldRows],
    blocks: Sequence[FeatureBlock],
    generator: torch.Generator,
) -> MapFit:
    """Several prior precisions, effects of responses, or both.

    The error rate and the number of cyclic blocks are found without effects: held-out prompts decide on both, and of
    a response to such a prompt an effect says nothing.
    """
    assert data.rows is not None, "labels with their responses' rows"
    if settings.precision_by_block and not blocks:
        raise ConfigError(
            f"params.yaml: posteriors.{settings.kind}.precision_by_block: the features do not say what blocks they are "
            "made of; set precision_by_block: false"
        )
    grouped = blocks if settings.precision_by_block else (FeatureBlock("features", 0, data.response_a.shape[1]),)
    group = torch.repeat_interleave(torch.arange(len(grouped)), torch.tensor([len(block) for block in grouped]))
    loss = _with_error_rate(settings, data, loss, splits)
    x, incidence = data.response_a - data.response_b, Incidence.of(*data.rows)
    if settings.effects != 0:
        incidence.check(data.group, f"posteriors.{settings.kind}.response_variance")
    choose = Search(settings.prior_precision, settings.effects, splits, loss.tau)
    problem = MixedProblem(x, OnData(loss, data), group, incidence)
    fit = choose(problem)
    found = None
    if model.cyclic_blocks:
        simple = LinearProblem(x, OnData(loss, data))
        alone = _chooser(settings, splits, loss.tau)(simple)
        found = search(model, data, loss, simple, alone.weight, alone.precision, splits, generator=generator)
    module, priors, effect = module_of(fit.weight[None]), {"weight": fit.precision[group][None]}, fit.effect
    if found is not None and found.blocks:
        cyclic = found.weight.clone()
        cyclic[0] = 0
        fit = choose(MixedProblem(x, OnData(loss, data), group, incidence, offset=scores(cyclic, data)))
        module, priors, effect = _with_blocks(model, data, loss, fit, found, group, incidence)
    tau = loss.tau
    if settings.tau == "heldout" and splits:
        tau = _calibrated_left_out(problem, data, loss, splits, found, fit.variance)
    blocks_active = 0 if found is None else found.blocks
    summary: dict[str, float | int | str] = {
        "tau": tau,
        "error_rate": loss.error_rate,
        "prior_precision": fit.precision[group].log().mean().exp().item(),
        "blocks_active": blocks_active,
        "blocks_possible": model.cyclic_blocks,
        "block_screen": 0.0 if found is None else found.screen,
    }
    if settings.precision_by_block:
        summary |= {f"prior_precision_{block.name}": fit.precision[k].item() for k, block in enumerate(grouped)}
    if found is not None and found.blocks:
        summary |= {"block_precision": found.precision[1].item(), "block_gain": sum(found.gain)}
    effects = None
    if settings.effects != 0:
        summary |= {"response_variance": fit.variance, "responses_compared": len(incidence.rows)}
        if fit.variance:
            effects = EffectFit(incidence, effect, fit.variance)
        else:
            why = "labels prefer none" if incidence.recurs else "no response stands in two labels"
            summary["response_effects"] = f"off: {why}"
    return MapFit(module, priors, None, loss, tau, model.cyclic_blocks - blocks_active, summary, effects)


def _with_blocks(
    model: Model,
    data: LabelledTensors,
    loss: PairLoss,
    fit: MixedFit,
    found: FoundBlocks,
    group: Tensor,
    incidence: Incidence,
) -> tuple[GeneralPreference, dict[str, Tensor], Tensor]:
    """The weights and effects of ``fit`` and the blocks that were found, minimised together.

    Returns:
        The module, prior precisions of its parameters, and the effects [R].
    """
    rows = found.precision[1:, None].expand(-1, len(group))
    priors = {"weight": torch.cat([fit.precision[group][None], rows])}
    weight = torch.cat([fit.weight[None], found.weight[1:]])
    module = module_of(weight, prompt_gates=getattr(model, "prompt_gates", False))
    if module.gate_weight is not None:
        priors["gate_weight"] = gate_precision(data)
    together = WithEffects(module, incidence, fit.effect, fit.variance)
    minimise(together, data, loss, together.priors(priors))
    return module, priors, together.effect()


def _calibrated_left_out(
    problem: MixedProblem,
    data: LabelledTensors,
    loss: PairLoss,
    splits: list[FoldRows],
    found: FoundBlocks | None,
    effect_variance: float,
) -> float:
    """The temperature under which scores of labels that were left out, with their uncertain effects, lose least."""
    loss, data = _of_predictions(loss, data)
    mean, variance = problem.left_out(splits)
    if found is not None and found.by_fold:
        variance = torch.full_like(mean, 2 * effect_variance)
        for weight, (_, held) in zip(found.by_fold, splits, strict=True):
            mean[held] = scores(weight, data.take(held))
    tested = torch.cat([held for _, held in splits])
    losses = [
        expected_loss(OnData(replace(loss, tau=tau), data), mean, variance)[tested].sum()
        for tau in (loss.tau * TAUS).tolist()
    ]
    return loss.tau * TAUS[int(torch.stack(losses).argmin())].item()


def _free(
    settings: MapSettings,
    model: Model,
    data: LabelledTensors,
    loss: PairLoss,
    splits: list[FoldRows],
    generator: torch.Generator,
) -> MapFit:
    """A model whose loss is not convex: every candidate precision from the same start, the best on held-out prompts.

    The error rate is chosen after the precision, and at it: all pairs of both would be forty fits a fold.
    """
    search = _FreeSearch(
        model, loss, settings.tau == "learn", model.build(data.response_a.shape[1], generator=generator)
    )
    if isinstance(settings.prior_precision, str):
        candidates = search.candidates(data, generator)
    else:
        candidates = [float(settings.prior_precision)]
    best, tau, fits = len(candidates) // 2, None, []
    if splits and (len(candidates) > 1 or settings.tau == "heldout"):
        by_fold = [[search.fit(data.take(train), alpha, generator) for train, _ in splits] for alpha in candidates]
        best = int(np.argmin([search.held_out_loss(fits, data, splits) for fits in by_fold]))
        fits = by_fold[best]
    if splits and settings.error_rate == "heldout":
        searches = [replace(search, loss=replace(loss, error_rate=rate)) for rate in ERROR_RATES]
        by_rate = [[s.fit(data.take(train), candidates[best], generator) for train, _ in splits] for s in searches]
        chosen = int(np.argmin([search.held_out_loss(fits, data, splits) for fits in by_rate]))
        search, fits = searches[chosen], by_rate[chosen]
    module, fitted_loss = search.fit(data, candidates[best], generator)
    if settings.tau == "heldout" and fits:
        tau = _calibrated(fitted_loss, data, splits, [partial(score, part) for part, _ in fits])
    summary: dict[str, float | int | str] = {
        "tau": tau or fitted_loss.tau,
        "error_rate": fitted_loss.error_rate,
        "prior_precision": candidates[best],
    }
    if model.cyclic_blocks:
        summary |= {"blocks_active": model.cyclic_blocks, "blocks_possible": model.cyclic_blocks}
    priors = search.priors(data, candidates[best])
    return MapFit(module, priors, search.centre, fitted_loss, tau or fitted_loss.tau, 0, summary)


@dataclass(frozen=True)
class _FreeSearch:
    """Fits of one model at several prior precisions, all from one start."""

    model: Model
    loss: PairLoss
    learn_tau: bool
    start: ScoreModule

    @property
    def scale_free(self) -> bool:
        return isinstance(self.start, GeneralPreference) and self.start.normalize

    @property
    def centre(self) -> Tensor | None:
        """Where the scale of the weights changes no score, a prior at zero has no minimum: it sits on the start."""
        return parameters_to_vector(self.start.parameters()).detach() if self.scale_free else None

    def candidates(self, data: LabelledTensors, generator: torch.Generator) -> list[float]:
        """Prior precisions of the last layer's weights worth comparing, strong to weak."""
        if isinstance(self.start, GeneralPreference) and not self.scale_free:
            strongest = max([1e-12, *(pair.value for pair in self._pairs(self.start, data, generator))])
            return [share * strongest for share in BLOCK_SHARES]
        unit = 1.0 if self.scale_free else self.loss.tau
        return [multiple * self.start.weight.shape[1] / unit**2 for multiple in UNIT_MULTIPLES]

    def priors(self, data: LabelledTensors, precision: float) -> dict[str, Tensor]:
        """Prior precision of every parameter; of other layers than the last, what their start was drawn with."""
        named = {name: torch.tensor(float(p.shape[-1])) for name, p in self.start.named_parameters()}
        if "gate_weight" in named:
            named["gate_weight"] = gate_precision(data)
        return {**named, "bias": torch.tensor(1.0), "weight": torch.tensor([[precision]], dtype=torch.float64)}

    def fit(self, data: LabelledTensors, precision: float, generator: torch.Generator) -> tuple[ScoreModule, PairLoss]:
        """A module fitted to these labels, and the loss with the temperature it ended with."""
        module = self.model.build(data.response_a.shape[1], generator=generator)
        module.load_state_dict(self.start.state_dict())
        with torch.no_grad():
            if not isinstance(module, GeneralPreference):
                module.weight.mul_(self.loss.tau)
            elif not self.scale_free:
                for block, pair in enumerate(self._pairs(module, data, generator)):
                    module.weight[2 * block : 2 * block + 2] = pair.start(_with_inputs(module, data), self.loss.tau)
        priors = self.priors(data, precision)
        if not self.learn_tau:
            minimise(module, data, self.loss, priors, centre=self.centre)
            return module, self.loss
        log_tau = nn.Parameter(torch.tensor(math.log(LEARNT_TAU), dtype=torch.float64))
        learning, prior = replace(self.loss, log_tau=log_tau), (math.log(LEARNT_TAU), LEARNT_PRECISION)
        minimise(module, data, learning, priors, centre=self.centre, extra={log_tau: prior})
        return module, replace(self.loss, tau=log_tau.exp().item())

    def held_out_loss(
        self, fits: Sequence[tuple[ScoreModule, PairLoss]], data: LabelledTensors, splits: Sequence[FoldRows]
    ) -> float:
        """Loss of every fold's held-out labels under the fold's own fit, in nats."""
        total = 0.0
        for (module, loss), (_, held) in zip(fits, splits, strict=True):
            unseen = data.take(held)
            total += loss(score(module, unseen), unseen).sum().item()
        return total

    def _pairs(self, module: GeneralPreference, data: LabelledTensors, generator: torch.Generator) -> list[Pair]:
        """Leading singular pairs of G at zero, one for each block: zero itself is a saddle."""
        _, slope, _ = derivatives(OnData(self.loss, data), torch.zeros_like(data.label))
        return leading_pairs(_with_inputs(module, data), -slope, module.blocks, generator=generator)


def _with_inputs(module: GeneralPreference, data: LabelledTensors) -> LabelledTensors:
    return replace(data, response_a=module.inputs(data.response_a), response_b=module.inputs(data.response_b))


def _calibrated(loss: PairLoss, data: LabelledTensors, splits: list[FoldRows], scorers: Sequence[Scorer]) -> float:
    """The temperature at which held-out scores of the folds' models have the highest likelihood."""
    if not splits:
        return loss.tau
    loss, data = _of_predictions(loss, data)
    total = torch.zeros(len(TAUS), dtype=torch.float64)
    for scorer, (_, held) in zip(scorers, splits, strict=True):
        unseen = data.take(held)
        scored = scorer(unseen)
        for k, tau in enumerate((loss.tau * TAUS).tolist()):
            total[k] += replace(loss, tau=tau)(scored, unseen).sum()
    return loss.tau * TAUS[int(total.argmin())].item()


def _of_predictions(loss: PairLoss, data: LabelledTensors) -> tuple[PairLoss, LabelledTensors]:
    """The likelihood of labels under predictions, which know no margin: sigmoid(s / tau).

    A loss with margins is none, its outcomes' probabilities do not add up to 1: a larger tau alone makes it smaller.
    """
    if data.margin is None:
        return loss, data
    plain = loss.settings.model_copy(update={"loss": "logistic", "margin": False})
    return replace(loss, settings=plain), replace(data, margin=None)
