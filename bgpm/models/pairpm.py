"""Pairwise model: s = f(x_i, x_j) - f(x_j, x_i), f a network that reads both responses at once.

It can express any preference, cyclic ones included, at K^2 evaluations for K responses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bgpm.models import Model

if TYPE_CHECKING:
    import torch

    from bgpm.networks import ScoreModule


class Pairpm(Model):
    """Settings of the pairwise model.

    Attributes:
        hidden: Width of the one hidden layer.
    """

    kind: Literal["pairpm"] = "pairpm"
    embeds: ClassVar[bool] = False
    hidden: int = Field(default=32, ge=1)

    def build(self, in_features: int, *, generator: torch.Generator, blocks: int | None = None) -> ScoreModule:
        from bgpm.networks import PairNetwork

        return PairNetwork(in_features, self.hidden, generator=generator)
