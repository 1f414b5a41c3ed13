"""Numbers that a pool's file has of each pair, such as a judge's verdict: ``pool.pair_columns``.

They are read with the rows (`bgpm.data.readers.pair_numbers`), all in [-1, 1] and positive where they favour the first
response, and lie in tables of their own, so that another column embeds no text anew::

    data/columns/pool-pairs.parquet, benchmark-pairs.parquet    pair_id, and a column of numbers by each name, NaN where
                                                                 missing; positive where they favour response_a
    data/features/pool/pair_columns.npy, benchmark/             float64 [N, m], 0 where missing

with one row for each row of the set's ``pairs.parquet``, in its order. They are features as they stand: 0 is no opinion
and what is missing is 0, since centring or another fill would favour a side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bgpm.data.response_columns import all_one_way
from bgpm.data.schema import Row
from bgpm.data.tables import Table, read_table
from bgpm.errors import ConfigError, DataError


def pair_columns_table(*, pair_id: np.ndarray, numbers: np.ndarray, names: Sequence[str], source: str) -> Table:
    """The numbers of these pairs by their names.

    Args:
        pair_id: str [N], of the table of pairs.
        numbers: float64 [N, m], positive where they favour response_a, NaN where missing.
        names: Of ``pair_columns``, [m].
        source: Of the rows, for messages.

    Raises:
        DataError: If no pair has a number under some name.
    """
    for name, column in zip(names, numbers.T, strict=True):
        if np.isnan(column).all():
            raise DataError(f"{source}: no row has anything in the column of pair_columns.{name}; check its name")
    return {"pair_id": pair_id, **dict(zip(names, numbers.T, strict=True))}


def refuse_label_copies(rows: Sequence[Row], names: Sequence[str]) -> None:
    """ConfigError if a column favours the better response (or the worse one) in every decided pair of which it says
    anything.

    No judge agrees with people on each of so many pairs: labels were made of such a column, or it of them, whatever
    its name.
    """
    for n, name in enumerate(names):
        said = [
            row.numbers[n] * (row.label - 0.5)
            for row in rows
            if row.numbers and not math.isnan(row.label) and row.label != 0.5
        ]
        said = [value for value in said if not math.isnan(value) and value]
        if all_one_way(said):
            raise ConfigError(
                f"pair_columns.{name}: it says of all {len(said)} labelled pairs what their labels say, so one was "
                "made of the other and it cannot be a feature; leave it out"
            )


def read_pair_columns(pool: Path, which: Path, pairs: int) -> np.ndarray | None:
    """Numbers of a set's pairs, float64 [pairs, m], 0 where one is missing; None where the pool has none.

    Args:
        pool: Table of the pool's numbers, which says how many there are and their order.
        which: Table of the set's; a set without one, or without a column, has no opinion there.
        pairs: How many pairs the set has.
    """
    if not pool.exists():
        return None
    names = list(read_table(pool))[1:]
    table = read_table(which) if which.exists() else {}
    return np.stack([np.nan_to_num(table.get(name, np.zeros(pairs))) for name in names], 1)
