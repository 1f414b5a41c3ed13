"""Batch selectors: from values of single pairs to a batch worth labelling together.

One file a selector, found by its name (see `bgpm.registry`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from bgpm.registry import Component
from bgpm.types import Candidates


@dataclass(frozen=True)
class Batch:
    """A batch in the order of picking.

    Attributes:
        rows: int64 [k], rows of the candidates, all different.
        gains: float64 [k], what each pick was worth when it was made, in the selector's own units.
    """

    rows: np.ndarray
    gains: np.ndarray


class Selection(Component):
    """Base of every selector.

    Attributes:
        max_per_prompt: At most this many pairs of one prompt in a batch; None for no cap. When the
            cap leaves fewer than k candidates it is lifted for the remainder, with a logged warning.
    """

    max_per_prompt: int | None = Field(default=None, ge=1)

    def __call__(self, candidates: Candidates, values: np.ndarray, k: int, *, generator: np.random.Generator) -> Batch:
        """Pick k candidates (all of them if there are fewer), values [N] from an acquisition function."""
        raise NotImplementedError
