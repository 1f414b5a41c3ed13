"""Models with the same settings and different weights: their spread is the uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from bgpm.fitting import Fitted, saved
from bgpm.fitting.cyclic_blocks import module_of
from bgpm.fitting.effects import Index, ResponseEffects, WithEffects
from bgpm.fitting.gaussian import labelled_for
from bgpm.fitting.incidence import Incidence
from bgpm.fitting.lbfgs import OnData, minimise
from bgpm.fitting.map import MapFit, PairLoss, fit_map
from bgpm.fitting.mixed import MixedProblem
from bgpm.fitting.newton import LinearProblem
from bgpm.fitting.tensors import LabelledTensors, blocks_of, each_pair, width
from bgpm.models import Model
from bgpm.networks import ScoreModule
from bgpm.types import Comparisons, Features, PairKernel, Pairs, ScoreMoments

if TYPE_CHECKING:
    from bgpm.posteriors.ensemble import Ensemble

# Weights of G prompts give a sum over prompts the expected share (G - 1) / (G + 1) of its variance: none of one prompt,
# nine tenths of 19. Below so many, labels are weighed one by one.
ENOUGH_PROMPTS = 19


class EnsembleModel(Fitted):
    """Scores of several members; their mean, their unbiased variance and their empirical covariance.

    Args:
        model: Settings that all members share.
        modules: The members.
        in_features: p.
        tau: Temperature.
        error_rate: Share of labels taken to be wrong.
        summary: What was learnt in numbers.
        effects: Effects of responses, or None: what is known of them is each member's, ``by_member``; what is not, the
            prior of every other response, is added to variances and covariances as it is.
        by_member: Every member's effects, float64 [members, R].
    """

    def __init__(
        self,
        model: Model,
        modules: Sequence[ScoreModule],
        in_features: int,
        tau: float,
        error_rate: float,
        summary: dict[str, float | int | str],
        effects: ResponseEffects | None = None,
        by_member: Tensor | None = None,
    ) -> None:
        self.effects, self.by_member = effects, by_member
        self.model, self.modules = model, [module.requires_grad_(False) for module in modules]
        self.in_features, self.tau, self.error_rate, self._summary = in_features, tau, error_rate, summary

    def moments(self, features: Features, pairs: Pairs) -> ScoreMoments:
        scores = self.scores(features, pairs)
        variance = _deviations(scores).square().sum(0)
        if self.effects is not None:
            variance = variance + self.effects.within(features).variance(pairs)
        return ScoreMoments(scores.mean(0), variance, self.tau, self.error_rate)

    def sample(self, features: Features, pairs: Pairs, n: int, *, generator: torch.Generator) -> Tensor:
        """Gaussian draws with the members' mean and covariance: there are too few members to draw from."""
        scores = self.scores(features, pairs)
        weights = torch.randn(n, len(scores), generator=generator, dtype=torch.float64)
        drawn = scores.mean(0) + weights @ _deviations(scores)
        if self.effects is not None:
            drawn = drawn + self.effects.within(features).draw(pairs, n, generator=generator)
        return drawn

    def kernel(self, features: Features, pairs: Pairs) -> PairKernel:
        deviations = _deviations(self.scores(features, pairs))
        return _Empirical(deviations, None if self.effects is None else self.effects.within(features).index(pairs))

    def scores(self, features: Features, pairs: Pairs) -> Tensor:
        """Every member's scores, float64 [members, N]."""

        def of(response_a: Tensor, response_b: Tensor, prompt: Tensor | None) -> tuple[Tensor]:
            return (torch.stack([module(response_a, response_b, prompt) for module in self.modules]),)

        scores = each_pair(features, pairs, prompts=self.modules[0].reads_prompt, of=of)[0]
        if self.effects is not None and self.by_member is not None:
            scores = scores + self.effects.within(features).across(self.by_member.T.contiguous(), pairs).T
        return scores

    def summary(self) -> dict[str, float | int | str]:
        return dict(self._summary)

    def save(self, stem: Path) -> None:
        saved.write(
            stem,
            {
                "posterior": "ensemble",
                "head": saved.describe_model(self.model, self.modules[0], self.in_features),
                "tau": self.tau,
                "error_rate": self.error_rate,
                "members": len(self.modules),
                "summary": self._summary,
            },
            **{f"member{k}": module.state_dict() for k, module in enumerate(self.modules)},
            effects={} if self.effects is None else vars(self.effects),
            by_member={} if self.by_member is None else {"effects": self.by_member},
        )

    @classmethod
    def restore(cls, stem: Path, description: dict[str, Any]) -> EnsembleModel:
        groups = saved.read(stem)
        restored = [
            saved.restore_model(stem, description["head"], groups.get(f"member{k}", {}))
            for k in range(description["members"])
        ]
        return cls(
            restored[0][0],
            [module for _, module in restored],
            description["head"]["in_features"],
            description["tau"],
            description["error_rate"],
            description["summary"],
            ResponseEffects.restored(stem, groups["effects"]) if "effects" in groups else None,
            groups["by_member"]["effects"] if "by_member" in groups else None,
        )


@dataclass(frozen=True)
class _Empirical:
    """Covariance of the members' scores, from deviations [members, N], and of effects that no label is about."""

    deviations: Tensor
    effects: Index | None = None

    def diagonal(self) -> Tensor:
        """Variance of each pair's score, [N]."""
        variance = self.deviations.square().sum(0)
        return variance if self.effects is None else variance + self.effects.diagonal()

    def row(self, j: int) -> Tensor:
        """Covariance of pair ``j`` with every pair, [N]."""
        covariance = self.deviations[:, j] @ self.deviations
        return covariance if self.effects is None else self.effects.add(covariance[:, None], torch.tensor([j]))[:, 0]

    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Covariance of pairs with other pairs, [rows, columns]."""
        covariance = self.deviations[:, rows].T @ self.deviations[:, columns]
        return covariance if self.effects is None else self.effects.add(covariance, columns, rows)


def _deviations(scores: Tensor) -> Tensor:
    return (scores - scores.mean(0)) / (len(scores) - 1) ** 0.5


def fit_ensemble(
    settings: Ensemble, model: Model, features: Features, data: Comparisons, *, seed: int
) -> EnsembleModel:
    """One fit decides on priors and blocks; every member then has labels and prior of its own.

    Weights are drawn for prompts, whose labels may have more in common than the model says, where there are enough of
    them (`ENOUGH_PROMPTS`). Labels of fewer prompts are weighed one by one, and so are those with effects of responses:
    they are taken for independent given the model, as `laplace` takes all.
    """
    seen = labelled_for(settings, model, features, data, seed=seed)
    fit = fit_map(settings, model, seen, blocks=blocks_of(features, data.pairs), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    prompts, group = np.unique(seen.group, return_inverse=True)
    if fit.effects is not None or len(prompts) < ENOUGH_PROMPTS:
        group = np.arange(len(seen))
    modules, by_member = [], []
    for _ in range(settings.members):
        loss = fit.loss
        if settings.bootstrap:
            weight = torch.empty(int(group.max()) + 1, dtype=torch.float64).exponential_(generator=generator)
            loss = replace(loss, weight=(weight / weight.mean())[torch.from_numpy(group)])
        member = _member if not settings.mixed else _mixed_member
        module, effect = member(settings, model, seen, fit, loss, generator)
        modules.append(module)
        by_member.append(effect)
    summary = {**fit.summary, "members": settings.members}
    effects, deviations = None, None
    if fit.effects is not None:
        incidence = fit.effects.incidence
        effects = ResponseEffects.known(features, incidence, torch.stack(by_member).mean(0), fit.effects.variance)
        effects, deviations = effects.settled(), torch.stack(by_member)
    given, error_rate = width(features, data.pairs), fit.loss.error_rate
    return EnsembleModel(model, modules, given, fit.tau, error_rate, summary, effects, deviations)


def _mixed_member(
    settings: Ensemble, model: Model, data: LabelledTensors, fit: MapFit, loss: PairLoss, generator: torch.Generator
) -> tuple[ScoreModule, Tensor]:
    """A member with several prior precisions, or effects of responses, whose priors are perturbed too."""
    assert data.rows is not None, "labels with their responses' rows"
    incidence, variance, start = Incidence.of(*data.rows), 0.0, None
    if fit.effects is not None:
        incidence, variance, start = fit.effects.incidence, fit.effects.variance, fit.effects.mean
    centre, away = _centre(settings, fit, generator), torch.zeros(len(incidence.rows), dtype=torch.float64)
    if settings.perturb_prior and variance:
        away = variance**0.5 * torch.randn(len(away), generator=generator, dtype=torch.float64)
    if len(fit.module.weight) == 1:
        precision = fit.weight_precision.flatten()
        problem = MixedProblem(
            data.response_a - data.response_b,
            OnData(loss, data),
            torch.arange(len(precision)),
            incidence,
            anchor=centre,
            effect_anchor=away,
        )
        found = problem.solve(precision, variance)
        return module_of(found.weight[None]), found.effect
    module = model.build(data.response_a.shape[1], generator=generator, blocks=getattr(fit.module, "blocks", None))
    vector_to_parameters(parameters_to_vector(fit.module.parameters()), module.parameters())
    together = WithEffects(module, incidence, away if start is None else start, variance)
    if variance:
        centre = torch.cat([away / variance**0.5, centre])  # a module's own parameters come before its parts'
    minimise(together, data, loss, together.priors(fit.priors), centre=centre)
    return module, together.effect()


def _centre(settings: Ensemble, fit: MapFit, generator: torch.Generator) -> Tensor:
    """Where a member's prior of all parameters is centred."""
    parameters = dict(fit.module.named_parameters())
    centre = torch.zeros(sum(p.numel() for p in parameters.values()), dtype=torch.float64)
    if fit.centre is not None:
        centre = fit.centre
    if settings.perturb_prior:
        alpha = torch.cat([fit.priors[name].expand_as(p).flatten() for name, p in parameters.items()])
        noise = torch.randn(len(centre), generator=generator, dtype=torch.float64)
        centre = centre + alpha.double().rsqrt() * noise
    return centre


def _member(
    settings: Ensemble, model: Model, data: LabelledTensors, fit: MapFit, loss: PairLoss, generator: torch.Generator
) -> tuple[ScoreModule, None]:
    centre = _centre(settings, fit, generator)
    if model.contains_bt and len(fit.module.weight) == 1:
        problem = LinearProblem(data.response_a - data.response_b, OnData(loss, data), anchor=centre)
        return module_of(problem.solve(fit.weight_precision[0].item()).weight[None]), None
    # the fit's own minimum is the start: members are to differ by what is uncertain, not by where a search ends
    module = model.build(data.response_a.shape[1], generator=generator, blocks=getattr(fit.module, "blocks", None))
    vector_to_parameters(parameters_to_vector(fit.module.parameters()), module.parameters())
    minimise(module, data, loss, fit.priors, centre=centre)
    return module, None
