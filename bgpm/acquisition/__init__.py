"""Acquisition functions: how much a label for each pair would be worth.

One file a function, found by its name (see `bgpm.registry`). Each maps `Candidates` to one number a
pair, higher is better, the same for a pair and its swap. Units are in each docstring.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bgpm.registry import Component
from bgpm.types import Candidates


class Acquisition(Component):
    """Base of every acquisition function.

    Class attributes:
        uniform: True only for `random`, whose batch must be a uniform draw: selectors and caps are
            not applied to it.
    """

    uniform: ClassVar[bool] = False

    def __call__(self, candidates: Candidates, *, generator: np.random.Generator) -> np.ndarray:
        """Value of labelling each pair, float64 [N]; finite, higher is better."""
        raise NotImplementedError
