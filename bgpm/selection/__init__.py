"""Batch selectors: from values of single pairs to a batch worth labelling together.

One file a selector, found by its name (see `bgpm.registry`). The seed set of an experiment, chosen before
there is a model, is `seed_set`.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from bgpm.errors import ArgumentError, ShapeError
from bgpm.keys import require_finite, require_generator, require_numbers, uniform_by_key
from bgpm.registry import Component
from bgpm.selection._quota import Quota
from bgpm.selection._reordered import reordered
from bgpm.selection._seed_set import StartSettings, seed_set
from bgpm.types import Candidates, Uncertainty


@dataclass(frozen=True)
class Batch:
    """A batch in the order of picking.

    Attributes:
        rows: int64 [k], rows of the candidates, all different.
        gains: float64 [k], what each pick was worth when it was made, in the selector's own units.
        probability: float64 [k], with which each was drawn, given the picks before it; None where picks are no draws
            of known probability.
    """

    rows: np.ndarray
    gains: np.ndarray
    probability: np.ndarray | None = None


class Selection(Component):
    """Base of every selector; a member defines `pick`, calling it adds the checks and the order.

    Attributes:
        max_per_prompt: At most this many pairs of one prompt in a batch; None for no cap. When the
            cap leaves fewer than k candidates it is lifted for the remainder, with a logged warning.

    Class attributes:
        needs: What the posterior has to give for the selector to work.
        reads_values: False for selectors that read moments and covariances in their place.
        draws: Whether every pick is a draw of known probability, so that labels can be weighed.
    """

    needs: ClassVar[Uncertainty] = "mean"
    reads_values: ClassVar[bool] = True
    draws: ClassVar[bool] = False

    max_per_prompt: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _no_draw_excludes_a_pair(self) -> Selection:
        if self.draws and self.max_per_prompt is not None:
            raise ValueError(
                "max_per_prompt: a pair that the cap excludes cannot be weighed; set it to null, or use another "
                "selection"
            )
        return self

    def __call__(self, candidates: Candidates, values: np.ndarray, k: int, *, generator: np.random.Generator) -> Batch:
        """Pick k candidates, values [N] from an acquisition function.

        Raises:
            ArgumentError: If values are not an array of numbers, k is not a whole number, or the generator is not one
                of numpy's.
            ShapeError: If there is not one value a pair, or k is negative or more than there are candidates.
            NumericsError: If a number the selector reads is not finite; names the pair's key.
            ConfigError: If the selector needs covariances between pairs and the posterior has none.
        """
        n = len(candidates)
        require_numbers(f"{self.kind}: values", values, n)
        require_generator(self.kind, generator)
        if not isinstance(k, Integral):
            raise ArgumentError(f"{self.kind}: expected a batch of a whole number of pairs, got {k!r}; pass an int")
        if k < 0:
            raise ShapeError(f"{self.kind}: expected a batch of k >= 0 pairs, got {k}; mend batch_size")
        if k > n:
            left = f"the {n} that are left to label" if n else "none: every pair of the pool is labelled"
            raise ShapeError(f"{self.kind}: expected a batch of at most {left}, got k = {k}; ask for fewer")
        require_finite("acquisition value", values, candidates.keys)
        if k == 0:
            return Batch(np.empty(0, np.int64), np.empty(0))
        # Members see the candidates in an order that belongs to the keys: the first of equals is then a fair draw,
        # and neither the order of the file nor that of a pair's responses can matter.
        order = np.argsort(uniform_by_key(candidates.keys, generator), kind="stable")
        quota = Quota(candidates.pairs.prompt[order], self.max_per_prompt)
        batch = self.pick(reordered(candidates, order), values[order], int(k), quota, generator=generator)
        return Batch(order[batch.rows], batch.gains, batch.probability)

    def pick(
        self, candidates: Candidates, values: np.ndarray, k: int, quota: Quota, *, generator: np.random.Generator
    ) -> Batch:
        """As `__call__`, for 1 <= k <= N; candidates come in a seeded order and the lower row wins a tie.

        Args:
            quota: Which rows may be picked; every pick is noted there. At least k rows are not taken yet.
        """
        raise NotImplementedError
