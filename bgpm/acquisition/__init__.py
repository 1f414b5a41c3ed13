"""Acquisition functions: how much a label for each pair would be worth.

One file a function, found by its name (see `bgpm.registry`). Each maps `Candidates` to one number a
pair, higher is better, the same for a pair and its swap. Units are in each docstring. x = s / tau is
the score in units of the temperature and p = sigmoid(x) the probability that response_a is better.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bgpm.keys import require_finite, require_generator, require_moments
from bgpm.registry import Component
from bgpm.types import Candidates, Uncertainty


class Acquisition(Component):
    """Base of every acquisition function; a member defines `values`, calling it adds the checks.

    Class attributes:
        uniform: True only for `random`, whose batch must be a uniform draw: selectors and caps are
            not applied to it.
        needs: What the posterior has to give for the values to mean anything.
    """

    uniform: ClassVar[bool] = False
    needs: ClassVar[Uncertainty] = "mean"

    def __call__(self, candidates: Candidates, *, generator: np.random.Generator) -> np.ndarray:
        """Value of labelling each pair, float64 [N]; finite, higher is better.

        Raises:
            ArgumentError: If the generator is not one of numpy's.
            NumericsError: If a moment or a value is not finite or a variance is negative; names the pair's key.
            ConfigError: If the function needs covariances between pairs and the posterior has none.
        """
        require_generator(self.kind, generator)
        require_moments(candidates.mean, candidates.variance, candidates.keys)
        values = self.values(candidates, generator=generator)
        require_finite(f"{self.kind} value", values, candidates.keys)
        return values

    def values(self, candidates: Candidates, *, generator: np.random.Generator) -> np.ndarray:
        """Values as `__call__` describes them, float64 [N], for candidates whose moments have been checked."""
        raise NotImplementedError
