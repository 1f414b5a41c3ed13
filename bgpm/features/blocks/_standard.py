"""Mean and spread of columns, and blocks that are standardised counts or numbers."""

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


def check_standardisation(arrays: Arrays) -> None:
    """ValueError unless there are a finite mean and a scale above 0 of each column, in float64."""
    mean, scale = arrays["mean"], arrays["scale"]
    for name, array in (("mean", mean), ("scale", scale)):
        if array.dtype != np.float64 or array.shape != (len(mean) if mean.ndim else 0,) or not len(array):
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, expected float64, one a column")
    if not np.isfinite(mean).all() or not (scale > 0).all():  # a constant has the scale inf
        raise ValueError("mean and scale of its columns are not all numbers, or a scale is not above 0")


class Counted(Block):
    """Base of blocks that read numbers off a text; each column is standardised over the pool's responses."""

    names: ClassVar[tuple[str, ...]] = ("mean", "scale")

    def count(self, texts: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
        """The numbers, float64 [n, p]."""
        raise NotImplementedError

    def fit(self, inputs: Inputs) -> Arrays:
        mean, scale = standardisation(self.count(inputs.texts, inputs.prompts))
        return {"mean": mean, "scale": scale}

    def check(self, arrays: Arrays) -> None:
        check_standardisation(arrays)
        columns = self.count([""], [""]).shape[1]
        if len(arrays["mean"]) != columns:
            raise ValueError(f"it has {len(arrays['mean'])} columns, expected {columns}")

    def dim(self, arrays: Arrays) -> int:
        return len(arrays["mean"])

    def __call__(self, inputs: Inputs, arrays: Arrays) -> np.ndarray:
        return (self.count(inputs.texts, inputs.prompts) - arrays["mean"]) / arrays["scale"]


class Given(Block):
    """Base of blocks whose numbers come with the texts; each is standardised over those of the pool's responses.

    A missing number is taken for the pool's mean, 0 after standardisation; a prompt has none of them.
    """

    names: ClassVar[tuple[str, ...]] = ("mean", "scale")

    def fit(self, inputs: Inputs) -> Arrays:
        columns = inputs.numbers[self.kind].astype(np.float64)
        known = [column[~np.isnan(column)] for column in columns.T]
        fitted = [standardisation(column[:, None] if len(column) else np.zeros((1, 1))) for column in known]
        return {name: np.concatenate(parts) for name, parts in zip(self.names, zip(*fitted, strict=True), strict=True)}

    def check(self, arrays: Arrays) -> None:
        check_standardisation(arrays)
        if len(arrays["mean"]) != len(self.given):
            raise ValueError(f"it has {len(arrays['mean'])} columns, expected {len(self.given)}")

    def dim(self, arrays: Arrays) -> int:
        return len(arrays["mean"])

    def __call__(self, inputs: Inputs, arrays: Arrays) -> np.ndarray:
        if not inputs.numbers:
            return np.zeros((len(inputs.texts), self.dim(arrays)))
        numbers = inputs.numbers[self.kind]
        return np.where(np.isnan(numbers), 0.0, (numbers - arrays["mean"]) / arrays["scale"])
