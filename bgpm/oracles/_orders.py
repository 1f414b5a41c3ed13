"""What a pair's place decided, of a judge that was asked in both orders."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from bgpm.annotations.store import Annotation


def position_bias(pairs: Iterable[tuple[Annotation, Annotation]]) -> tuple[float, float]:
    """Shares of the pairs answered in both orders in which the first place, and the second, won both times.

    NaN where no pair has both answers.
    """
    both = [(ab.label, ba.label) for ab, ba in pairs if ab.label is not None and ba.label is not None]
    if not both:
        return math.nan, math.nan
    ab, ba = np.array(both).T
    return float(((ab > 0.5) & (ba < 0.5)).mean()), float(((ab < 0.5) & (ba > 0.5)).mean())
