"""Whether a pair was ordered rightly."""

from __future__ import annotations

import numpy as np


def correct(mean: np.ndarray, label: np.ndarray, *, tie: float) -> np.ndarray:
    """1 where the better response scores higher, 0 where lower, ``tie`` where they are equal; NaN for tied labels."""
    sign = np.sign(mean) * np.sign(label - 0.5)
    return np.where(label == 0.5, np.nan, np.where(sign == 0, tie, sign > 0))


def by_name(right: np.ndarray, name: np.ndarray) -> dict[str, float]:
    """Mean over the decided pairs of each name, sorted; what has no name or no decided pair is left out."""
    decided = ~np.isnan(right) & (name != "")
    names, at = np.unique(name[decided].astype(str), return_inverse=True)
    means = np.bincount(at, right[decided], len(names)) / np.bincount(at, minlength=len(names))
    return {str(key): float(value) for key, value in zip(names, means, strict=True)}
