"""Ensemble: members with bootstrapped labels and perturbed priors.

Randomised maximum a posteriori sampling (arXiv:1810.05546): every member draws the centre of its prior from
the prior, and weighs prompts, or labels where there are few prompts, by a Bayesian bootstrap, Exp(1) weights scaled
to mean 1. For linear models the members are then close to draws from the posterior. Blocks that are switched off stay
off in every member, and so does what they leave open: unlike `laplace`, an ensemble does not look for cycles it has
not met.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from bgpm.posteriors import Fitted, MapSettings
from bgpm.types import Comparisons, Features

if TYPE_CHECKING:
    from bgpm.models import Model


class Ensemble(MapSettings):
    """Settings of the ensemble, beside those of `MapSettings`.

    Attributes:
        members: How many; the rank of the covariance between pairs is one less.
        bootstrap: Weigh prompts at random in every member; labels where there are fewer than 19 prompts.
        perturb_prior: Centre every member's prior at a draw from the prior.
    """

    kind: Literal["ensemble"] = "ensemble"
    members: int = Field(default=8, ge=2)
    bootstrap: bool = True
    perturb_prior: bool = True

    def fit(self, model: Model, features: Features, data: Comparisons, *, seed: int) -> Fitted:
        from bgpm.fitting.members import fit_ensemble

        return fit_ensemble(self, model, features, data, seed=seed)

    @classmethod
    def fitted_class(cls) -> type[Fitted]:
        from bgpm.fitting.members import EnsembleModel

        return EnsembleModel
