"""Preference models over features: Bradley-Terry, pairwise, general.

One file a model, found by its name (see `bgpm.registry`); `params.yaml` calls the choice ``model``.
A member holds the settings and builds the `HeadModule` that computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpm.registry import Component

if TYPE_CHECKING:
    import torch


class Head(Component):
    """Base of every preference model's settings."""

    def build(self, in_features: int, *, generator: torch.Generator) -> torch.nn.Module:
        """A freshly initialised `HeadModule` for features of this dimension."""
        raise NotImplementedError
