"""A model with a Gaussian around its last layer's weights, or around nothing: `laplace` and `point`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bgpm import functional as F
from bgpm.errors import ConfigError
from bgpm.fitting import Fitted, covariances, saved
from bgpm.fitting.effects import EffectsKernel, Places, ResponseEffects, gaussian
from bgpm.fitting.importance import weighed
from bgpm.fitting.lbfgs import OnData
from bgpm.fitting.map import EffectFit, MapFit, fit_map, score
from bgpm.fitting.newton import gauss_newton
from bgpm.fitting.off_blocks import OffBlocks, off_blocks
from bgpm.fitting.tensors import (
    LabelledTensors,
    blocks_of,
    each_chunk,
    each_pair,
    in_row_order,
    labelled,
    pair_features,
    width,
)
from bgpm.functional.kernel import FullPosterior, WeightPosterior
from bgpm.models import Model
from bgpm.networks import Design, ScoreModule
from bgpm.types import Comparisons, Features, PairKernel, Pairs, ScoreMoments

if TYPE_CHECKING:
    from bgpm.posteriors import MapSettings
    from bgpm.posteriors.laplace import Laplace


class GaussianModel(Fitted):
    """Scores of a model whose last layer is Gaussian, linearised at the mean: exact along gauge directions.

    Args:
        kind: The posterior that made it.
        model, module: The model at its mean weights.
        tau: Temperature.
        error_rate: Share of labels taken to be wrong.
        weights: Covariance of the last layer; None for a point.
        off: What blocks that are switched off leave open; None for nothing.
        summary: What was learnt in numbers.
        effects: What is known of responses beside their features; None for a model without such effects.
    """

    def __init__(
        self,
        kind: str,
        model: Model,
        module: ScoreModule,
        in_features: int,
        tau: float,
        error_rate: float,
        weights: WeightPosterior | None,
        off: OffBlocks | None,
        summary: dict[str, float | int | str],
        effects: ResponseEffects | None = None,
    ) -> None:
        self.effects = effects
        self.kind, self.model, self.module, self.in_features = kind, model, module.requires_grad_(False), in_features
        self.tau, self.error_rate, self.weights, self.off, self._summary = tau, error_rate, weights, off, summary

    def moments(self, features: Features, pairs: Pairs) -> ScoreMoments:
        if self.effects is not None:
            return self._moments_with(self.effects.within(features), features, pairs)

        def of(response_a: Tensor, response_b: Tensor, prompt: Tensor | None) -> tuple[Tensor, Tensor]:
            mean = self.module(response_a, response_b, prompt)
            if self.weights is None:
                return mean, torch.zeros_like(mean)
            return mean, self._kernel(response_a, response_b, prompt).diagonal()

        mean, variance = each_pair(features, pairs, prompts=self.module.reads_prompt, of=of)
        return ScoreMoments(mean, variance, self.tau, self.error_rate)

    def sample(self, features: Features, pairs: Pairs, n: int, *, generator: torch.Generator) -> Tensor:
        deviation = None if self.weights is None else covariances.draw(self.weights, n, generator=generator).flatten(1)
        field = None if self.off is None else self.off.draw(n, generator=generator)

        def of(response_a: Tensor, response_b: Tensor, prompt: Tensor | None) -> tuple[Tensor]:
            drawn = self.module(response_a, response_b, prompt).expand(n, -1)
            if deviation is not None:
                drawn = drawn + deviation @ self.module.design(response_a, response_b, prompt).gradients().T
            if self.off is not None and field is not None:
                drawn = drawn + self.off.evaluate(field, response_a, response_b)
            return (drawn,)

        if self.effects is not None:
            places = self.effects.within(features)
            of_effects = places.mean(pairs).expand(n, -1)
            if deviation is not None:
                of_weights = deviation @ self.effects.shift.T  # [n, R]
                of_effects = of_effects - places.across(of_weights.T, pairs).T
                of_effects = of_effects + places.draw(pairs, n, generator=generator)
            return each_pair(features, pairs, prompts=self.module.reads_prompt, of=of)[0] + of_effects
        return each_pair(features, pairs, prompts=self.module.reads_prompt, of=of)[0]

    def kernel(self, features: Features, pairs: Pairs) -> PairKernel:
        if self.weights is None:
            return super().kernel(features, pairs)
        response_a, response_b, prompt, sign = pair_features(features, pairs, prompts=self.module.reads_prompt)
        if self.effects is not None:
            places = self.effects.within(features)
            return replace(self._with_effects(places, in_row_order(pairs), response_a, response_b, prompt), sign=sign)
        return replace(self._kernel(response_a, response_b, prompt), sign=sign)

    def summary(self) -> dict[str, float | int | str]:
        return dict(self._summary)

    def save(self, stem: Path) -> None:
        form, covariance = (None, {}) if self.weights is None else covariances.tensors(self.weights)
        saved.write(
            stem,
            {
                "posterior": self.kind,
                "head": saved.describe_model(self.model, self.module, self.in_features),
                "tau": self.tau,
                "error_rate": self.error_rate,
                "covariance": form,
                "summary": self._summary,
            },
            head=self.module.state_dict(),
            covariance=covariance,
            off={} if self.off is None else vars(self.off),
            effects={} if self.effects is None else vars(self.effects),
        )

    @classmethod
    def restore(cls, stem: Path, description: dict[str, Any]) -> GaussianModel:
        groups = saved.read(stem)
        model, module = saved.restore_model(stem, description["head"], groups["head"])
        form = description["covariance"]
        return cls(
            description["posterior"],
            model,
            module,
            description["head"]["in_features"],
            description["tau"],
            description["error_rate"],
            None if form is None else covariances.restore(form, groups["covariance"]),
            OffBlocks(**groups["off"]) if "off" in groups else None,
            description["summary"],
            ResponseEffects.restored(stem, groups["effects"]) if "effects" in groups else None,
        )

    def _moments_with(self, places: Places, features: Features, pairs: Pairs) -> ScoreMoments:
        def of(chunk: Pairs, response_a: Tensor, response_b: Tensor, prompt: Tensor | None) -> tuple[Tensor, Tensor]:
            mean = self.module(response_a, response_b, prompt) + places.mean(chunk)
            if self.weights is None:
                return mean, torch.zeros_like(mean)
            return mean, self._with_effects(places, chunk, response_a, response_b, prompt).diagonal()

        mean, variance = each_chunk(features, pairs, prompts=self.module.reads_prompt, of=of)
        return ScoreMoments(mean, variance, self.tau, self.error_rate)

    def _with_effects(
        self, places: Places, pairs: Pairs, response_a: Tensor, response_b: Tensor, prompt: Tensor | None
    ) -> _ScoreKernel:
        assert isinstance(self.weights, FullPosterior), "effects come with the weights' full covariance"
        design = self.module.design(response_a, response_b, prompt)
        return _ScoreKernel(
            EffectsKernel(design, self.weights.covariance, places, pairs), self.off, response_a, response_b
        )

    def _kernel(self, response_a: Tensor, response_b: Tensor, prompt: Tensor | None) -> _ScoreKernel:
        design = self.module.design(response_a, response_b, prompt)
        weights = F.LinearisedKernel(design.a, design.b, (design.x, design.y), None, self.weights)
        return _ScoreKernel(weights, self.off, response_a, response_b)


@dataclass(frozen=True)
class _ScoreKernel:
    """Covariance of scores: the weights' and effects', and of blocks that are off; all odd in the responses."""

    weights: F.LinearisedKernel | EffectsKernel
    off: OffBlocks | None
    response_a: Tensor
    response_b: Tensor
    sign: Tensor | None = None

    def diagonal(self) -> Tensor:
        """Variance of each pair's score, [N]."""
        variance = self.weights.diagonal()
        return variance if self.off is None else variance + self.off.variance(self.response_a, self.response_b)

    def row(self, j: int) -> Tensor:
        """Covariance of pair ``j`` with every pair, [N]."""
        covariance = self.weights.row(j)
        if self.off is not None:
            sides = self.response_a, self.response_b, self.response_a[j : j + 1], self.response_b[j : j + 1]
            covariance = covariance + self.off.block(*sides)[:, 0]
        return covariance if self.sign is None else self.sign[j] * self.sign * covariance

    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Covariance of pairs with other pairs, [rows, columns]."""
        covariance = self.weights.block(rows, columns)
        if self.off is not None:
            sides = self.response_a[rows], self.response_b[rows], self.response_a[columns], self.response_b[columns]
            covariance = covariance + self.off.block(*sides)
        return covariance if self.sign is None else self.sign[rows, None] * self.sign[columns] * covariance


def fit_point(
    settings: MapSettings, model: Model, features: Features, data: Comparisons, *, seed: int
) -> GaussianModel:
    """The maximum a posteriori, without uncertainty."""
    seen = labelled_for(settings, model, features, data, seed=seed)
    fit = fit_map(settings, model, seen, blocks=blocks_of(features, data.pairs), seed=seed)
    effects = None
    if fit.effects is not None:
        effects = ResponseEffects.known(features, fit.effects.incidence, fit.effects.mean, fit.effects.variance)
    return _model(settings, model, width(features, data.pairs), fit, None, None, fit.summary, effects)


def fit_laplace(settings: Laplace, model: Model, features: Features, data: Comparisons, *, seed: int) -> GaussianModel:
    """The maximum a posteriori with a Gaussian of the likelihood's curvature around it."""
    seen = labelled_for(settings, model, features, data, seed=seed)
    fit = fit_map(settings, model, seen, blocks=blocks_of(features, data.pairs), seed=seed)
    with torch.no_grad():
        design = fit.module.design(seen.response_a, seen.response_b, seen.prompt)
    at = score(fit.module, seen)
    effects = None
    if fit.effects is not None:
        at = at + fit.effects.incidence.across(fit.effects.mean)
    _, _, curvature = gauss_newton(OnData(fit.loss, seen), at)
    if fit.effects is None:
        form = covariances.choose(settings.structure, len(seen), design.a.shape[1], design.x.shape[1])
        weights = covariances.make(form, design, curvature, fit.weight_precision)
    else:
        form, (effects, weights) = "full", _posterior_of(fit, fit.effects, features, design, curvature)
    off = None
    if fit.blocks_off and settings.off_variance:
        generator = torch.Generator().manual_seed(seed)
        off = off_blocks(seen, curvature, settings.off_variance * fit.loss.tau**2, generator=generator)
    summary = {**fit.summary, "structure": form}
    return _model(settings, model, width(features, data.pairs), fit, weights, off, summary, effects)


def _posterior_of(
    fit: MapFit, found: EffectFit, features: Features, design: Design, curvature: Tensor
) -> tuple[ResponseEffects, FullPosterior]:
    """Effects and weights after labels with this design; ConfigError where the covariance is too large to hold."""
    rows, inputs = design.a.shape[1], design.x.shape[1]
    if (rows * inputs) ** 2 > covariances.EXACT_ENTRIES:
        raise ConfigError(
            f"response effects need the full covariance of all {rows} x {inputs} weights, at most "
            f"{int(covariances.EXACT_ENTRIES**0.5)} of them; lower features.pca, or set response_variance: 0.0"
        )
    precision = fit.weight_precision
    each = precision.repeat_interleave(inputs) if precision.ndim == 1 else precision.flatten()
    known = ResponseEffects.known(features, found.incidence, found.mean, found.variance)
    effects, covariance = gaussian(known, found.incidence, design.gradients(), curvature, each)
    return effects, FullPosterior(covariance)


def _model(
    settings: MapSettings,
    model: Model,
    in_features: int,
    fit: MapFit,
    weights: WeightPosterior | None,
    off: OffBlocks | None,
    summary: dict[str, float | int | str],
    effects: ResponseEffects | None,
) -> GaussianModel:
    kind, tau, error_rate = settings.kind, fit.tau, fit.loss.error_rate
    return GaussianModel(kind, model, fit.module, in_features, tau, error_rate, weights, off, summary, effects)


def labelled_for(
    settings: MapSettings, model: Model, features: Features, data: Comparisons, *, seed: int
) -> LabelledTensors:
    """Labelled pairs with what this model and these settings read, and with their final weights.

    Raises:
        ConfigError: If pairs have numbers of their own and the model cannot read them.
    """
    if data.pairs.numbers is not None and not model.linear:
        raise ConfigError(
            f"numbers of pairs are read by Bradley-Terry only, got model {model.kind}; set model: bt, or take "
            "pool.pair_columns out"
        )
    seen = labelled(features, data, prompts=getattr(model, "prompt_gates", False), margins=settings.margin)
    return seen if data.importance is None else weighed(settings, seen, data.importance, seed=seed)
