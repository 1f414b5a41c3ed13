"""Fitting: from a model, features and labels to scores with their uncertainty.

Users choose a posterior and its settings in `bgpm.posteriors`; the modules here do the work for it. They read
settings, never import their classes, so that imports go one way.

    tensors       labels and features as the fitters read them
    map           the maximum a posteriori (MAP) of any model; newton and lbfgs are its optimisers
    mixed         models with several prior precisions, or an effect of each response; incidence is their sparse algebra
    effects       effects of responses in a fitted model, and which table's responses they are of
    blocks        which cyclic blocks a general preference model needs
    gaussian      the MAP with or without a Gaussian around it; covariances and off_blocks are that Gaussian's parts
    members       an ensemble around the MAP
    embeddings    Gaussian embeddings with learnt variances
    saved         fitted models on disk

Importing the package itself does not import torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgpm.errors import ConfigError
from bgpm.types import Features, PairKernel, Pairs, ScoreMoments

if TYPE_CHECKING:
    import torch

    from bgpm.models import Model


class Fitted(ABC):
    """A trained preference model with its uncertainty.

    Attributes:
        model: Its settings.
        in_features: p, the number of features that it reads.
    """

    model: Model
    in_features: int

    @abstractmethod
    def moments(self, features: Features, pairs: Pairs) -> ScoreMoments:
        """Mean and variance of every pair's score, [N]; the mean flips sign with the pair, exactly."""

    @abstractmethod
    def sample(self, features: Features, pairs: Pairs, n: int, *, generator: torch.Generator) -> torch.Tensor:
        """n joint draws of the scores, float64 [n, N], with the moments that `moments` promises."""

    def kernel(self, features: Features, pairs: Pairs) -> PairKernel:
        """Covariance between pairs; ConfigError where this posterior knows none."""
        raise ConfigError(f"{type(self).__name__} has no covariance between pairs: use posterior=laplace or ensemble")

    @abstractmethod
    def summary(self) -> dict[str, float | int | str]:
        """What was learnt in numbers: tau, prior precision, active blocks, steps and the like."""

    @abstractmethod
    def save(self, stem: Path) -> None:
        """Write ``stem.safetensors`` and ``stem.json``; the JSON names the posterior under ``posterior``."""

    @classmethod
    @abstractmethod
    def restore(cls, stem: Path, description: dict[str, Any]) -> Fitted:
        """The inverse of `save`, bit for bit; ``description`` is the parsed JSON."""
