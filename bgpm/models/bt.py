"""Bradley-Terry: s = r_i - r_j with a linear reward r = w' phi, the case d = 2, v = (r, 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bgpm.models import Model

if TYPE_CHECKING:
    import torch

    from bgpm.networks import GeneralPreference


class Bt(Model):
    """Settings of the Bradley-Terry model; it has none: the prior belongs to the posterior."""

    kind: Literal["bt"] = "bt"

    @property
    def contains_bt(self) -> bool:
        return True

    def build(self, in_features: int, *, generator: torch.Generator, blocks: int | None = None) -> GeneralPreference:
        from bgpm.networks import GeneralPreference

        return GeneralPreference(in_features, blocks=0, generator=generator)
