"""Mean and spread of columns, and blocks that are standardised counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from bgpm.features.blocks import Arrays, Block, Inputs


def standardisation(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of columns; inf for a constant one, so that what differs later does not explode."""
    mean, deviation = columns.mean(0), columns.std(0)
    rounding = 1e-8 * np.maximum(deviation.max(initial=0.0), np.abs(mean))
    return mean, np.where(deviation > rounding, deviation, np.inf)


class Counted(Block):
    """Base of blocks that read numbers off a text; each column is standardised over the pool's responses."""

    names: ClassVar[tuple[str, ...]] = ("mean", "scale")

    def count(self, texts: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
        """The numbers, float64 [n, p]."""
        raise NotImplementedError

    def fit(self, inputs: Inputs) -> Arrays:
        mean, scale = standardisation(self.count(inputs.texts, inputs.prompts))
        return {"mean": mean, "scale": scale}

    def dim(self, arrays: Arrays) -> int:
        return len(arrays["mean"])

    def __call__(self, inputs: Inputs, arrays: Arrays) -> np.ndarray:
        return (self.count(inputs.texts, inputs.prompts) - arrays["mean"]) / arrays["scale"]
