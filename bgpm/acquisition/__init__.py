"""Acquisition functions: how much a label for each pair would be worth.

One file a function, found by its name (see `bgpm.registry`). Each maps `Candidates` to one number a
pair, higher is better, the same for a pair and its swap. Units are in each docstring. x = s / tau is
the score in units of the temperature and p = sigmoid(x) the probability that the first answer is better.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bgpm.errors import NumericsError, ShapeError
from bgpm.keys import require_finite
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
            NumericsError: If a moment or a value is not finite or a variance is negative; names the pair's key.
            ShapeError: If there is not one mean, variance and key a pair.
            ConfigError: If the function needs covariances between pairs and the posterior has none.
        """
        for name in ("mean", "variance", "keys"):
            shape = getattr(candidates, name).shape
            if shape != (len(candidates),):
                raise ShapeError(
                    f"candidates.{name}: expected shape ({len(candidates)},), got {shape}; pass one a pair"
                )
        require_finite("posterior mean", candidates.mean, candidates.keys)
        require_finite("posterior variance", candidates.variance, candidates.keys)
        negative = np.flatnonzero(candidates.variance < 0)
        if len(negative):
            raise NumericsError(
                f"posterior variance of pair {candidates.keys[negative[0]]!r}: expected >= 0, got "
                f"{candidates.variance[negative[0]]}; pass variances, not their logarithms"
            )
        values = self.values(candidates, generator=generator)
        require_finite(f"{self.kind} value", values, candidates.keys)
        return values

    def values(self, candidates: Candidates, *, generator: np.random.Generator) -> np.ndarray:
        """What `__call__` promises, float64 [N], for candidates whose moments are known to be sound."""
        raise NotImplementedError
