"""A batch of which a share is a uniform draw, whatever the acquisition function thinks."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from bgpm.selection import Batch
from bgpm.selection._quota import Quota
from bgpm.selection._wrapper import Wrapper
from bgpm.types import Candidates


class Hybrid(Wrapper):
    """The first ``random_share`` of the batch is drawn uniformly, the rest is chosen by another selector.

    A model that is wrong in the pairs its acquisition function likes never learns so from them: the uniform part is
    insurance against that, and labels to measure calibration on, which chosen pairs are not. The inner selector
    knows what was drawn: it takes the next best, `logdet` and `conditional_bald` count those labels as known, `coreset`
    as covered, and the cap per prompt holds for both parts together.

    Gains of drawn pairs are their values; the others' are the inner selector's.

    Attributes:
        random_share: Share of the batch that is drawn, rounded to a whole number of pairs, half up.
    """

    kind: Literal["hybrid"] = "hybrid"
    random_share: float = Field(default=0.25, gt=0, lt=1)

    @model_validator(mode="after")
    def _the_inner_selector_does_not_draw(self) -> Hybrid:
        if self.draws:
            raise ValueError(
                f"inner: {self.inner} draws with a uniform share of its own, whose probabilities a second share would "
                "change; use selection: weighted and its setting uniform"
            )
        return self

    def pick(
        self, candidates: Candidates, values: np.ndarray, k: int, quota: Quota, *, generator: np.random.Generator
    ) -> Batch:
        drawn = quota.first(generator.permutation(len(candidates)), int(self.random_share * k + 0.5))
        batch = Batch(drawn, values[drawn])
        if len(drawn) == k:
            return batch
        chosen = self.selector.pick(candidates, values, k - len(drawn), quota, generator=generator)
        return Batch(np.concatenate([drawn, chosen.rows]), np.concatenate([batch.gains, chosen.gains]))
