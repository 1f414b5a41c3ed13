"""Uniform draws: the usual baseline."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from bgpm.acquisition import Acquisition
from bgpm.keys import uniform_by_key
from bgpm.types import Candidates


class Random(Acquisition):
    """A uniform number in (0, 1) for each pair, so that the k highest are a uniform draw of k pairs."""

    kind: Literal["random"] = "random"
    uniform: ClassVar[bool] = True

    def values(self, candidates: Candidates, *, generator: np.random.Generator) -> np.ndarray:
        return uniform_by_key(candidates.keys, generator)
