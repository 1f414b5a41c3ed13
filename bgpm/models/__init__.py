"""Preference models over features: Bradley-Terry, pairwise, general.

One file a model, found by its name (see `bgpm.registry`); `params.yaml` calls the choice ``model``.
A member holds the settings and builds the `bgpm.networks.ScoreModule` that computes. Settings
can be read and checked without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bgpm.registry import Component

if TYPE_CHECKING:
    import torch

    from bgpm.networks import ScoreModule


RENAMED = {"pairpm": "pair_mlp"}  # kinds as older runs and params.yaml called them


class Model(Component):
    """Base of every preference model's settings.

    Class attributes:
        embeds: True where each response has an embedding of its own, so that K responses cost K
            evaluations; False where a score reads both responses at once.
    """

    embeds: ClassVar[bool] = True

    @property
    def cyclic_blocks(self) -> int:
        """Largest number of free two-dimensional blocks, beside the Bradley-Terry block."""
        return 0

    @property
    def contains_bt(self) -> bool:
        """True where the model with no cyclic block is exactly Bradley-Terry."""
        return False

    @property
    def linear(self) -> bool:
        """True where a score is linear in the difference of the two responses' features: Bradley-Terry alone."""
        return self.contains_bt and not self.cyclic_blocks

    def build(self, in_features: int, *, generator: torch.Generator, blocks: int | None = None) -> ScoreModule:
        """A freshly initialised module in float64.

        Args:
            in_features: p, the number of features.
            generator: Draws the initial weights.
            blocks: Cyclic blocks to build, at most and by default `cyclic_blocks`.
        """
        raise NotImplementedError
