"""Gaussian embeddings whose means and variances are linear maps of the features: training and moments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bgpm import functional as F
from bgpm.errors import ConfigError, NumericsError
from bgpm.fitting import Fitted, saved
from bgpm.fitting.tensors import LabelledTensors, each_pair, labelled, prompt_features, response_features
from bgpm.models import Model
from bgpm.models.gpm import Gpm
from bgpm.networks import GeneralPreference
from bgpm.types import Comparisons, Features, Pairs, ScoreMoments

if TYPE_CHECKING:
    from bgpm.posteriors.amortized import Amortized

DRAWS = 1024  # quasi-random draws behind a moment on the sphere, mirrored
START_VARIANCE = 0.1


class LogVariance(nn.Module):
    """Logarithm of the variance of each embedding coordinate, linear in the features.

    Args:
        in_features: p.
        dim: d.
        generator: Draws small weights.
    """

    def __init__(self, in_features: int, dim: int, *, generator: torch.Generator) -> None:
        super().__init__()
        start = torch.randn(dim, in_features, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(0.1 * start / in_features**0.5)
        self.bias = nn.Parameter(torch.full((dim,), math.log(START_VARIANCE), dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        """[N, p] to [N, d]."""
        return features @ self.weight.T.to(features.dtype) + self.bias.to(features.dtype)


class AmortizedModel(Fitted):
    """Scores of independent Gaussian embeddings, projected to the unit sphere where the model says so.

    Args:
        model, module: The mean.
        log_variance: The variance.
        in_features: p.
        tau: Temperature.
        summary: What was learnt in numbers.
    """

    def __init__(
        self,
        model: Gpm,
        module: GeneralPreference,
        log_variance: LogVariance,
        in_features: int,
        tau: float,
        summary: dict[str, float | int | str],
    ) -> None:
        self.model: Gpm = model
        self.module = module.requires_grad_(False)
        self.log_variance, self.in_features = log_variance.requires_grad_(False), in_features
        self.tau, self._summary = tau, summary

    @property
    def on_sphere(self) -> bool:
        return self.model.normalize == "sphere"

    def moments(self, features: Features, pairs: Pairs) -> ScoreMoments:
        of = self._sphere_moments if self.on_sphere else self._ambient_moments
        mean, variance = each_pair(features, pairs, prompts=self.module.reads_prompt, of=of)
        return ScoreMoments(mean, variance, self.tau)

    def sample(self, features: Features, pairs: Pairs, n: int, *, generator: torch.Generator) -> Tensor:
        """Joint draws: a response's embedding is the same in all of its pairs."""
        rows, at = np.unique(np.concatenate([pairs.response_a, pairs.response_b]), return_inverse=True)
        centre, deviation = self._ambient(response_features(features, rows))
        noise = torch.randn(n, *centre.shape, generator=generator, dtype=torch.float64)
        drawn = self._project(centre + deviation * noise)
        response_a, response_b = torch.from_numpy(at).chunk(2)
        prompt = prompt_features(features, pairs.prompt) if self.module.reads_prompt else None
        return F.preference_score(drawn[:, response_a], drawn[:, response_b], self._gates(prompt, n))

    def summary(self) -> dict[str, float | int | str]:
        return dict(self._summary)

    def save(self, stem: Path) -> None:
        saved.write(
            stem,
            {
                "posterior": "amortized",
                "head": saved.describe_model(self.model, self.module, self.in_features),
                "tau": self.tau,
                "summary": self._summary,
            },
            head=self.module.state_dict(),
            log_variance=self.log_variance.state_dict(),
        )

    @classmethod
    def restore(cls, stem: Path, description: dict[str, Any]) -> AmortizedModel:
        groups = saved.read(stem)
        model, module = saved.restore_model(stem, description["head"], groups["head"])
        assert isinstance(model, Gpm)
        assert isinstance(module, GeneralPreference)
        in_features = description["head"]["in_features"]
        log_variance = LogVariance(in_features, len(module.weight), generator=torch.Generator())
        log_variance.load_state_dict(groups["log_variance"])
        return cls(model, module, log_variance, in_features, description["tau"], description["summary"])

    def training_loss(
        self, settings: Amortized, data: LabelledTensors, kl_weight: float, noise: Sequence[Tensor]
    ) -> Tensor:
        """Minus the evidence lower bound of these labels with one draw each, in nats a label, [].

        Args:
            noise: Standard normal [N, d], of the first and of the second responses.
        """
        sides, divergence = [], 0.0
        for features, drawn in zip((data.response_a, data.response_b), noise, strict=True):
            centre, deviation = self._ambient(features)
            sample, mean = self._project(centre + deviation * drawn), self._project(centre)
            sides.append(settings.mixing * sample + (1 - settings.mixing) * mean)
            divergence = divergence + F.variance_kl(2 * deviation.log(), settings.prior_variance)
        score = F.preference_score(*sides, self.module.gates(data.prompt))
        return (F.pairwise_loss(score, data.label, tau=settings.tau) + kl_weight * divergence).mean()

    def _ambient(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the Gaussian, before any projection, [N, d] each."""
        centre = self.module.linear(features) if self.on_sphere else self.module.embed(features)
        return centre, (self.log_variance(features) / 2).exp()

    def _project(self, v: Tensor) -> Tensor:
        return v / torch.linalg.vector_norm(v, dim=-1, keepdim=True) if self.on_sphere else v

    def _gates(self, prompt: Tensor | None, n: int) -> Tensor | None:
        gates = self.module.gates(prompt)
        return None if gates is None else gates.expand(n, *gates.shape)

    def _ambient_moments(self, response_a: Tensor, response_b: Tensor, prompt: Tensor | None) -> tuple[Tensor, Tensor]:
        (mean_i, sd_i), (mean_j, sd_j) = self._ambient(response_a), self._ambient(response_b)
        return F.score_moments(mean_i, sd_i.square(), mean_j, sd_j.square(), self.module.gates(prompt))

    def _sphere_moments(self, response_a: Tensor, response_b: Tensor, prompt: Tensor | None) -> tuple[Tensor, Tensor]:
        (mean_i, cov_i), (mean_j, cov_j) = self._sphere_embeddings(response_a), self._sphere_embeddings(response_b)
        gates = self.module.gates(prompt)
        return F.joint_score_moments(mean_i, mean_j, cov_i, cov_j, torch.zeros_like(cov_i), gates)

    def _sphere_embeddings(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [N, d] and covariance [N, d, d] of the projected embedding, by quasi-random draws."""
        noise = _mirrored_normal(len(self.module.weight))[:, None]
        means, covariances = [], []
        for centre, deviation in zip(*(t.split(64) for t in self._ambient(features)), strict=True):
            v = self._project(centre + deviation * noise)
            mean = v.mean(0)
            v = v - mean
            covariance = torch.einsum("snd,sne->nde", v, v) / len(v)
            means.append(mean)
            covariances.append((covariance + covariance.mT) / 2)
        return torch.cat(means), torch.cat(covariances)


@cache
def _mirrored_normal(dim: int) -> Tensor:
    """Quasi-random standard normal vectors and their negatives, [DRAWS, dim]; the same in every process."""
    uniform = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0).draw(DRAWS // 2, dtype=torch.float64)
    # scrambled points are multiples of 2^-30 and may be 0, where the inverse is infinite
    normal = torch.special.ndtri(uniform.clamp(2.0**-31, 1 - 2.0**-31))
    return torch.cat([normal, -normal])


def warmed_up(settings: Amortized, step: int, steps: int) -> float:
    """Weight of the divergence at a step out of so many."""
    return settings.kl_weight * min(1.0, step / max(1.0, settings.warmup * steps))


def fit_amortized(
    settings: Amortized, model: Model, features: Features, data: Comparisons, *, seed: int
) -> AmortizedModel:
    """Train both networks by AdamW on minibatches of the labels.

    Raises:
        ConfigError: If the model has no free embeddings, labels have weights, or pairs have numbers.
        NumericsError: If training diverges.
    """
    settings.check(model)
    assert isinstance(model, Gpm)  # no other kind has free embeddings
    if data.weighed:
        raise ConfigError("posterior: amortized counts every label once: give labels no weight, or use laplace")
    if data.pairs.numbers is not None:
        raise ConfigError("posterior: amortized reads no numbers of pairs: use laplace, or take pool.pair_columns out")
    generator = torch.Generator().manual_seed(seed)
    module = model.build(features.dim, generator=generator)
    log_variance = LogVariance(features.dim, len(module.weight), generator=generator)
    seen = labelled(features, data, prompts=module.reads_prompt, margins=False)
    fitted = AmortizedModel(model, module, log_variance, features.dim, settings.tau, {})
    trained = [*module.requires_grad_().parameters(), *log_variance.requires_grad_().parameters()]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    size = min(settings.batch_size, len(seen))
    order, loss = torch.empty(0, dtype=torch.int64), torch.full((), math.nan)  # until the first step
    for step in range(settings.steps):
        if step * size % len(seen) < size:
            order = torch.randperm(len(seen), generator=generator)
        rows = order[torch.arange(step * size, (step + 1) * size) % len(seen)]
        noise = [torch.randn(size, len(module.weight), generator=generator, dtype=torch.float64) for _ in range(2)]
        loss = fitted.training_loss(settings, seen.take(rows), warmed_up(settings, step, settings.steps), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if not all(torch.isfinite(parameter).all() for parameter in trained):
        raise NumericsError(
            f"training diverged within {settings.steps} steps on {len(seen)} labels; "
            f"lower learning_rate, now {settings.learning_rate}"
        )
    summary = {"tau": settings.tau, "steps": settings.steps, "loss": loss.item()}
    return AmortizedModel(model, module, log_variance, features.dim, settings.tau, summary)
