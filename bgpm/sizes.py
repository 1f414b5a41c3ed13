"""Numbers of labels, as a count or as a share of the pool."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator


def _count_or_share(value: object) -> object:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if whole or (isinstance(value, float) and 0 < value < 1):
        return value
    raise ValueError("expected a number of pairs, 1 or more, or a share of the pool above 0 and below 1")


# A number of pairs (32), or a share of the pool (0.02).
Size = Annotated[int | float, BeforeValidator(_count_or_share)]


def pairs_of(size: int | float, pool: int) -> int:
    """How many pairs a size is in a pool of so many: itself, or its share, rounded, at least 1."""
    return int(size) if size >= 1 else max(1, round(size * pool))
