"""Stochastic batches: Gumbel noise on the logarithm of the values (Kirsch et al., arXiv:2106.12059)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from bgpm.selection import Batch, Selection
from bgpm.selection._quota import Quota
from bgpm.types import Candidates


class Power(Selection):
    """A draw without replacement with odds proportional to value^beta; gains are the values.

    The k highest of beta log(value) + Gumbel noise are such a draw. A value of 0 is drawn when nothing else is left.

    Where any value is negative (`margin`) there is no logarithm, and exp(value - highest value) takes the place of
    the value: odds are proportional to exp(beta value), which depends on the unit of the values.

    Attributes:
        beta: 0 is a uniform draw from the pairs of positive value, large is `top_k`. The paper uses 1; `entropy`,
            whose values differ by a small factor only, needs more.
    """

    kind: Literal["power"] = "power"
    beta: float = Field(default=8.0, ge=0, allow_inf_nan=False)

    def pick(
        self, candidates: Candidates, values: np.ndarray, k: int, quota: Quota, *, generator: np.random.Generator
    ) -> Batch:
        if (values < 0).any():
            logs = values - values.max()
        else:
            logs = np.log(values, out=np.full(len(values), -np.inf), where=values > 0)
        drawable = np.isfinite(logs)
        noise = generator.gumbel(size=len(values))
        noisy = np.where(drawable, self.beta * np.where(drawable, logs, 0.0) + noise, -np.inf)
        ranked = np.argsort(-noisy, kind="stable")
        rows = quota.first(ranked, k)
        return Batch(rows, values[rows])
