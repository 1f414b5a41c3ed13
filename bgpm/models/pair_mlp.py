"""Pairwise network: s = f(x_i, x_j) - f(x_j, x_i), f a network that reads the features of both responses at once.

It can express any preference, cyclic ones included, at K^2 evaluations for K responses. Each response is embedded by
itself; the backbone never sees both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bgpm.models import Model

if TYPE_CHECKING:
    import torch

    from bgpm.networks import ScoreModule


class PairMlp(Model):
    """Settings of the pairwise network.

    Attributes:
        hidden: Width of the one hidden layer.
    """

    kind: Literal["pair_mlp"] = "pair_mlp"
    embeds: ClassVar[bool] = False
    hidden: int = Field(default=32, ge=1)

    def build(self, in_features: int, *, generator: torch.Generator, blocks: int | None = None) -> ScoreModule:
        from bgpm.networks import PairNetwork

        return PairNetwork(in_features, self.hidden, generator=generator)
