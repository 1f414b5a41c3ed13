"""Last-layer Laplace posterior: a Gaussian of the likelihood's curvature around the maximum a posteriori.

The generalised Gauss-Newton form, linearised (arXiv:2008.08400, arXiv:2106.14806): scores have the variance
g' Sigma g, blind to the directions v -> Q v along which no score changes; exact second-order moments would
carry the prior along them for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from bgpm.posteriors import Fitted, MapSettings
from bgpm.types import Comparisons, Features

if TYPE_CHECKING:
    from bgpm.models import Model


class Laplace(MapSettings):
    """Settings of the Laplace posterior, beside those of `MapSettings`.

    Attributes:
        structure: ``full`` or ``low_rank`` (over the labels), both exact; ``kronecker``, an approximation
            except for Bradley-Terry; ``auto`` takes the smaller exact one, or Kronecker where neither is small.
            With response effects it is ``full``.
        off_variance: Prior variance, in logits squared, that the cyclic blocks which are switched off give to the
            score of the average labelled pair: what is left to explore of cyclic preferences. 0 for none.
    """

    kind: Literal["laplace"] = "laplace"
    structure: Literal["auto", "full", "low_rank", "kronecker"] = "auto"
    off_variance: float = Field(default=0.1, ge=0)

    @model_validator(mode="after")
    def _effects_have_one_structure(self) -> Laplace:
        if self.effects != 0 and not self.takes_effects:
            raise ValueError(f"response_variance needs structure: full or auto, not {self.structure}")
        return self

    @property
    def takes_effects(self) -> bool:
        return self.structure in ("auto", "full")

    def fit(self, model: Model, features: Features, data: Comparisons, *, seed: int) -> Fitted:
        from bgpm.fitting.gaussian import fit_laplace

        return fit_laplace(self, model, features, data, seed=seed)

    @classmethod
    def fitted_class(cls) -> type[Fitted]:
        from bgpm.fitting.gaussian import GaussianModel

        return GaussianModel
