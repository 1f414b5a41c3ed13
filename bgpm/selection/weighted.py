"""A batch of draws with known probabilities, so that each label can be weighed by what it stands for."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bgpm.selection import Batch, Selection
from bgpm.selection._quota import Quota
from bgpm.types import Candidates


class Weighted(Selection):
    """One pair after the other, without replacement; each draw mixes the values with a uniform draw.

    With n pairs left and values a, pair i is drawn with probability

        q(i) = uniform / n + (1 - uniform) a_i^power / sum of a^power over the n pairs.

    Where any value is negative (`margin`), exp(value - highest value) takes the place of the value, as in `power`.
    Where no pair that is left has a positive value, the draw is uniform.

    Labels acquired so are no sample of the pool either, but q says how far from one, and a fit weighs them by it
    (`bgpm.functional.importance_weights`): what is fitted is then, in expectation, the loss over the whole pool, and a
    model that cannot be right everywhere is not led astray by the pairs that the acquisition function likes. The price
    is variance: a weight is 1 / uniform at most, and a fit keeps as much of it as helps
    (``posteriors.*.importance_exponent``).

    Gains are the values. There is no cap per prompt: a pair that a cap excludes has probability 0.

    Attributes:
        uniform: Share of the uniform draw in each probability; 1 is uniform draws.
        power: How much values count; 0 is uniform draws.
    """

    kind: Literal["weighted"] = "weighted"
    draws: ClassVar[bool] = True
    uniform: float = Field(default=0.3, gt=0, le=1)
    power: float = Field(default=2.0, ge=0, allow_inf_nan=False)

    def pick(
        self, candidates: Candidates, values: np.ndarray, k: int, quota: Quota, *, generator: np.random.Generator
    ) -> Batch:
        worth = self._worth(values)
        left = np.ones(len(values), bool)
        rows, probability = np.empty(k, np.int64), np.empty(k)
        for m in range(k):
            q, total = np.where(left, 1 / (len(values) - m), 0.0), worth.sum()
            if total > 0:
                q = self.uniform * q + (1 - self.uniform) * worth / total
            up_to = np.cumsum(q)
            row = int(np.searchsorted(up_to, generator.random() * up_to[-1], side="right"))
            row = min(row, int(np.flatnonzero(left)[-1]))  # a product that is rounded up to the whole
            rows[m], probability[m] = row, q[row]
            left[row], worth[row] = False, 0.0
            quota.take(row)
        return Batch(rows, values[rows], probability)

    def _worth(self, values: np.ndarray) -> np.ndarray:
        """a^power, divided by its highest value, [N]."""
        if self.power == 0:
            return np.ones(len(values))
        if (values < 0).any():
            logs = values - values.max()
        else:
            logs = np.log(values, out=np.full(len(values), -np.inf), where=values > 0)
        some = np.isfinite(logs)
        if not some.any():
            return np.zeros(len(values))
        return np.where(some, np.exp(self.power * np.where(some, logs - logs[some].max(), 0.0)), 0.0)
