"""The MAP estimate (maximum a posteriori) alone, with variance 0: no uncertainty. For baselines and for speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from bgpm.posteriors import Fitted, MapSettings
from bgpm.types import Comparisons, Features, Uncertainty

if TYPE_CHECKING:
    from bgpm.models import Model


class Point(MapSettings):
    """Settings of the MAP estimate: those of `MapSettings`."""

    kind: Literal["point"] = "point"
    gives: ClassVar[Uncertainty] = "mean"

    def fit(self, model: Model, features: Features, data: Comparisons, *, seed: int) -> Fitted:
        from bgpm.fitting.gaussian import fit_point

        return fit_point(self, model, features, data, seed=seed)

    @classmethod
    def fitted_class(cls) -> type[Fitted]:
        from bgpm.fitting.gaussian import GaussianModel

        return GaussianModel
