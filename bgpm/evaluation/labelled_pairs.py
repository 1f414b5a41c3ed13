"""Labelled pairs of a split, as evaluation reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bgpm.data.tables import as_pairs, read_table, rows_of, where
from bgpm.types import Pairs


@dataclass(frozen=True)
class Items:
    """What pairs are scored as part of (see `bgpm.data.benchmarks`).

    Attributes:
        rule: ``rewardbench2`` or ``rm_bench``.
        name, cell: str [N], the item of each pair, and which pair of it this is.
    """

    rule: str
    name: np.ndarray
    cell: np.ndarray


@dataclass(frozen=True)
class Split:
    """Labelled pairs.

    Attributes:
        pairs: [N].
        label: float64 [N], probability that response_a is better.
        section, subset: str [N].
        rows: int64 [N], rows of the pairs table.
        items: None where every pair stands for itself.
    """

    pairs: Pairs
    label: np.ndarray
    section: np.ndarray
    subset: np.ndarray
    rows: np.ndarray
    items: Items | None = None


def read_split(folder: Path, truth: Path) -> Split:
    """The pairs of a folder of tables whose label is in ``truth``; none where no label is recorded.

    Raises:
        StateError: If a table is missing or the two do not belong together.
    """
    table = read_table(folder / "pairs.parquet")
    labels = read_table(truth, ["pair_id", "label"])
    labels = where(labels, ~np.isnan(labels["label"]))
    rows = rows_of(table["pair_id"], labels["pair_id"], str(folder / "pairs.parquet"))
    table = where(table, rows)
    items = None
    if (folder / "items.parquet").exists():
        found = read_table(folder / "items.parquet", ["pair_id", "rule", "item", "cell"])
        found = where(found, rows_of(found["pair_id"], labels["pair_id"], str(folder / "items.parquet")))
        items = Items(str(found["rule"][0]), found["item"], found["cell"])
    return Split(as_pairs(table), labels["label"], table["section"], table["subset"], rows, items)
