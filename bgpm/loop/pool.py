"""What every step reads: pairs, their features, and labels to be measured against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from bgpm.data.feature_blocks import read_blocks, read_pair_numbers
from bgpm.data.tables import Table, as_pairs, read_array, read_table
from bgpm.evaluation.cyclic import Triples, find_triples
from bgpm.evaluation.labelled_pairs import Split, read_split
from bgpm.types import Candidates, Features, PairKernel, Pairs


@dataclass(frozen=True)
class Pool:
    """All pairs of a pool, held-out ones too, with the features of their texts.

    Attributes:
        table: Columns of ``pairs.parquet``.
        features: Features of the texts.
        numbers: float64 [N, m], of each pair, of `bgpm.data.pair_columns`; None where there are none.
        pairs: The same pairs as index arrays.
        open: Rows whose pairs may be acquired, int64.
    """

    table: Table
    features: Features
    numbers: np.ndarray | None = None
    pairs: Pairs = field(init=False)
    open: np.ndarray = field(init=False)

    @classmethod
    def of(cls, features: Features, pairs: Pairs) -> Pool:
        """A pool of pairs that may all be acquired, from arrays: no file, no text."""
        low, high = np.minimum(pairs.response_a, pairs.response_b), np.maximum(pairs.response_a, pairs.response_b)
        return cls(
            {
                "pair_id": np.array([str(row) for row in range(len(pairs))], object),
                "prompt": pairs.prompt,
                "response_a": pairs.response_a,
                "response_b": pairs.response_b,
                "section": np.full(len(pairs), "all", object),
                "split": np.full(len(pairs), "pool", object),
                "key": np.array([f"{a}:{b}" for a, b in zip(low.tolist(), high.tolist(), strict=True)], object),
            },
            features,
            pairs.numbers,
        )

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", replace(as_pairs(self.table), numbers=self.numbers))
        object.__setattr__(self, "open", np.flatnonzero(self.table["split"] == "pool"))


@dataclass(frozen=True, kw_only=True)
class LabelledSplit(Split):
    """The pairs of one split whose label is known, for evaluation.

    Attributes:
        features: Features of their texts.
    """

    features: Features

    @property
    def decided(self) -> bool:
        """Whether any pair has a winner."""
        return bool((self.label != 0.5).any())

    @cached_property
    def triples(self) -> Triples:
        """Triples of responses of which every pair has a winner; they are the same for every model that is measured."""
        return find_triples(self.pairs, self.label)


def read_features(folder: Path) -> Features:
    """Features of the responses and prompts of one set."""
    responses, prompts = (read_array(folder / f"{name}.npy") for name in ("responses", "prompts"))
    return Features(responses, prompts, read_blocks(folder))


def read_pool(folder: Path, features: Path) -> Pool:
    """A pool as the stages `prepare` and `features` wrote it."""
    return Pool(read_table(folder / "pairs.parquet"), read_features(features), read_pair_numbers(features))


def read_labelled(folder: Path, truth: Path, features: Path) -> LabelledSplit:
    """The pairs of a pool or benchmark that have a label in a file of recorded labels."""
    return with_features(read_split(folder, truth), read_features(features), read_pair_numbers(features))


def with_features(split: Split, features: Features, numbers: np.ndarray | None = None) -> LabelledSplit:
    """Labelled pairs with the features of their texts and, of all pairs of their table, the numbers of each."""
    mine = None if numbers is None else numbers[split.rows]
    return LabelledSplit(**vars(replace(split, pairs=replace(split.pairs, numbers=mine))), features=features)


def candidates(
    pool: Pool, scores: Table, kernel: Callable[[], PairKernel], acquired: np.ndarray | None = None
) -> Candidates:
    """The pairs on offer, as acquisition functions and selectors see them.

    Args:
        scores: Columns pair, mean, variance, tau, error_rate.
        kernel: Covariance rows, on demand.
        acquired: Rows of the pairs acquired so far; none by default.
    """
    some = len(scores["pair"]) > 0
    return Candidates(
        pool.pairs.take(scores["pair"]),
        scores["mean"],
        scores["variance"],
        float(scores["tau"][0]) if some else 1.0,
        pool.features,
        pool.table["key"][scores["pair"]],
        kernel,
        float(scores["error_rate"][0]) if some else 0.0,
        pool.pairs.take(np.empty(0, np.int64) if acquired is None else acquired),
    )
