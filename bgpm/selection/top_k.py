"""The most valuable pairs, each by itself."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bgpm.selection import Batch, Selection
from bgpm.selection._quota import Quota
from bgpm.types import Candidates


class TopK(Selection):
    """The k highest values; gains are the values.

    Pairs that carry the same information are acquired together: `logdet` and `conditional_bald` avoid that.
    """

    kind: Literal["top_k"] = "top_k"

    def pick(
        self, candidates: Candidates, values: np.ndarray, k: int, quota: Quota, *, generator: np.random.Generator
    ) -> Batch:
        ranked = np.argsort(-values, kind="stable")
        rows = quota.first(ranked, k)
        return Batch(rows, values[rows])
