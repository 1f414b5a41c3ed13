"""What every step reads: pairs, their features, and labels to be measured against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bgpm.data.tables import as_pairs, read_table, rows_of, where
from bgpm.types import Candidates, Features, PairKernel, Pairs

Table = dict[str, np.ndarray]


@dataclass(frozen=True)
class Pool:
    """All pairs of a pool, held-out ones too, with the features of their texts.

    Attributes:
        table: Columns of ``pairs.parquet``.
        features: Features of the texts.
        pairs: The same pairs as index arrays.
        open: Rows whose pairs may be bought, int64.
    """

    table: Table
    features: Features
    pairs: Pairs = field(init=False)
    open: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", as_pairs(self.table))
        object.__setattr__(self, "open", np.flatnonzero(self.table["split"] == "pool"))


@dataclass(frozen=True)
class Labelled:
    """The pairs of one split whose label is known, for evaluation.

    Attributes:
        rows: Rows of the table of pairs.
        pairs, section, subset, label: What they are, [N].
        features: Features of their texts.
    """

    rows: np.ndarray
    pairs: Pairs
    section: np.ndarray
    subset: np.ndarray
    label: np.ndarray
    features: Features

    @property
    def decided(self) -> bool:
        """Whether any pair has a winner."""
        return bool((self.label != 0.5).any())


def read_features(folder: Path) -> Features:
    """Features of the responses and prompts of one set."""
    return Features(*(np.load(folder / f"{name}.npy") for name in ("responses", "prompts")))


def read_pool(folder: Path, features: Path) -> Pool:
    """A pool as the stages `prepare` and `reduce` wrote it."""
    return Pool(read_table(folder / "pairs.parquet"), read_features(features))


def read_labelled(folder: Path, truth: Path, features: Path) -> Labelled:
    """The pairs of a pool or benchmark that have a label in a file of recorded labels."""
    table, recorded = read_table(folder / "pairs.parquet"), read_table(truth, ["pair_id", "label"])
    known = where(recorded, ~np.isnan(recorded["label"]))
    rows = rows_of(table["pair_id"], known["pair_id"], str(folder / "pairs.parquet"))
    table = where(table, rows)
    return Labelled(rows, as_pairs(table), table["section"], table["subset"], known["label"], read_features(features))


def candidates(pool: Pool, scores: Table, kernel: Callable[[], PairKernel]) -> Candidates:
    """The pairs on offer, as acquisition functions and selectors see them.

    Args:
        scores: Columns pair, mean, variance, tau.
        kernel: Covariance rows, on demand.
    """
    return Candidates(
        pool.pairs.take(scores["pair"]),
        scores["mean"],
        scores["variance"],
        float(scores["tau"][0]) if len(scores["tau"]) else 1.0,
        pool.features,
        pool.table["key"][scores["pair"]],
        kernel,
    )
