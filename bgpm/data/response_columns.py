"""Numbers that a pool's file has of each response, such as scores of a reward model: ``pool.response_columns``.

They are read with the rows (`bgpm.data.readers.response_numbers`) and lie in tables of their own, so that another
column embeds no text anew::

    data/columns/pool.parquet, benchmark.parquet    response_id, and a column of numbers by each name, NaN where missing

with one row for each row of the set's ``responses.parquet``, in its order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from bgpm.data.dedup import digest
from bgpm.data.schema import Row, as_json
from bgpm.data.tables import Table, read_table
from bgpm.errors import ConfigError, DataError

SUSPECT = 50  # decided pairs from which a column that agrees with every label is taken to have made them


def columns_table(response_ids: np.ndarray, rows: Sequence[Row], names: Sequence[str]) -> Table:
    """The numbers of these responses, as the rows of their file say.

    A response that stands in several rows has one number: it is given once or often, always the same.

    Args:
        response_ids: str [R], of the table of responses.
        rows: Every row of the file, those too that are dropped later.
        names: Of ``response_columns``, in the order of the rows' numbers.

    Raises:
        DataError: If a response has two different numbers, naming both places; if no row has a number.
    """
    known: dict[str, list[float]] = {}
    places: dict[tuple[str, int], str] = {}
    for row in rows if names else ():
        messages = as_json(row.prompt)
        for text, numbers in ((row.a, row.numbers_a), (row.b, row.numbers_b)):
            mine = known.setdefault(response_id := digest(messages, text), [math.nan] * len(names))
            for n, value in enumerate(numbers):
                if math.isnan(value):
                    continue
                if value != mine[n] and not math.isnan(mine[n]):
                    raise DataError(
                        f"{row.place}: response_columns.{names[n]}: a response has {value:g} here and {mine[n]:g} at "
                        f"{places[response_id, n]}; a number of a response cannot depend on what it is compared "
                        "with: give one, their mean for example"
                    )
                mine[n], places[response_id, n] = value, row.place
    for n, name in enumerate(names):
        if all(math.isnan(numbers[n]) for numbers in known.values()):
            raise DataError(
                f"{rows[0].place}: like every row, it has no number in the columns of response_columns.{name}; check "
                "their names"
            )
    nothing = [math.nan] * len(names)
    found = [known.get(name, nothing) for name in response_ids]
    return {
        "response_id": response_ids,
        **{name: np.array([numbers[n] for numbers in found], np.float64) for n, name in enumerate(names)},
    }


def all_one_way(agreement: Sequence[float]) -> bool:
    """Whether a column agrees with the label of every decided pair, or with none: more than a judge of pairs does.

    Args:
        agreement: Of each of them, > 0 where the column favours the better response, < 0 where the worse.
    """
    return len(agreement) >= SUSPECT and (min(agreement) > 0 or max(agreement) < 0)


def refuse_labels_in_disguise(rows: Sequence[Row], names: Sequence[str]) -> None:
    """ConfigError if the higher (or the lower) number of a column is the better response in every decided pair.

    No reward model agrees with people on each of `SUSPECT` pairs: labels were made of such a column, whatever its name.
    """
    for n, name in enumerate(names):
        apart = [
            (row.numbers_a[n] - row.numbers_b[n]) * (row.label - 0.5)
            for row in rows
            if row.numbers_a and not math.isnan(row.label) and row.label != 0.5
        ]
        apart = [value for value in apart if not math.isnan(value)]
        if all_one_way(apart):
            raise ConfigError(
                f"response_columns.{name}: it orders the responses of all {len(apart)} labelled pairs as their labels "
                "do, so the labels were made of it and it cannot be a feature; leave it out"
            )


def read_numbers(
    path: Path, names: Sequence[str], missing: Literal["refuse", "mean"], *, named: str = "", file: str = "params.yaml"
) -> np.ndarray:
    """Columns of a set's responses, float64 [R, len(names)], NaN where one is missing.

    Args:
        path: What `columns_table` made, written.
        names: Of ``response_columns``.
        missing: ``refuse`` a number that is missing, or leave it NaN, which features take for the ``mean``.
        named, file: The settings that name columns and the file that holds them, for messages.

    Raises:
        ConfigError: If ``response_columns`` names no such column, and numbers may not be missing.
        StateError: If the file cannot be read.
        DataError: If a number is missing that must not be; counts them and names the first response.
    """
    table = read_table(path)
    absent = [name for name in names if name not in table]
    if absent and missing == "refuse":
        known = ", ".join(name for name in table if name != "response_id") or "none there"
        raise ConfigError(
            f"{file}: features.columns.use: {absent[0]!r} is none of {named or f'{path.stem}.response_columns'} "
            f"({known}); name its columns there, or set features.columns.missing: mean"
        )
    nothing = np.full(len(table["response_id"]), np.nan)
    found = np.stack([table.get(name, nothing) for name in names], 1)
    if missing == "refuse":
        check_numbers(found, names, f"{path}", [f"response {name}" for name in table["response_id"]])
    return found


def check_numbers(numbers: np.ndarray, names: Sequence[str], place: str, rows: Sequence[str]) -> None:
    """DataError if a number is missing, with the count and the first."""
    at, column = np.nonzero(np.isnan(numbers))
    if len(at):
        lacking = len(np.unique(at))
        raise DataError(
            f"{place}: {lacking} of {len(numbers)} responses have no {names[column[0]]}, the first is {rows[at[0]]}; "
            "give each of them a number, or set features.columns.missing: mean"
        )


def counts(table: Mapping[str, np.ndarray]) -> dict[str, dict[str, int]]:
    """How many responses (or pairs) there are and how many lack a number, by column."""
    whose = {"response_id": "responses", "pair_id": "pairs"}
    of = next((many for name, many in whose.items() if name in table), "")
    return {
        name: {of: len(column), "missing": int(np.isnan(column).sum())}
        for name, column in table.items()
        if name not in whose
    }
