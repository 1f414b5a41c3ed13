"""Gold pairs: pairs whose better response is known, shown among the others to measure annotators.

Their file has any layout that `bgpm.data.readers` reads. They are no part of the pool: nobody trains on their labels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from bgpm.data.dedup import Tally, digest, drop_identical, merge_duplicates, pair_key
from bgpm.data.readers import read_rows
from bgpm.data.schema import Message, PoolSettings, Row, as_json
from bgpm.errors import DataError, MissingLabelError
from bgpm.registry import parse

log = logging.getLogger("bgpm")


@dataclass(frozen=True)
class GoldPair:
    """A pair whose better response is known.

    Attributes:
        name: Made from its texts, whatever their order in the file.
        key: What the pool calls a pair of these texts (`bgpm.data.dedup.pair_key`).
        turns: The conversation so far.
        response_a, response_b: In the order of their texts, which says nothing.
        label: 1 where response_a is the better one, 0 where response_b is.
        place: File and line.
    """

    name: str
    key: str
    turns: tuple[Message, ...]
    response_a: str
    response_b: str
    label: float
    place: str


def gold_of(
    path: str, columns: Mapping[str, str] = MappingProxyType({}), labels: Mapping[str, Any] = MappingProxyType({})
) -> list[GoldPair]:
    """Gold pairs of a file, in the order of their names.

    Rows whose label is a tie or a probability, and rows with two identical responses, are left out and counted: they
    have no better response.

    Args:
        columns, labels: As in section ``pool`` of params.yaml, for layouts that need them.

    Raises:
        ConfigError: If columns or labels name what there is not.
        DataError: If the file cannot be read, has a pair twice with different labels, or no pair is left.
        MissingLabelError: Naming the first row without a label.
    """
    source = {"path": path, "heldout": 0.0, "columns": dict(columns), "labels": dict(labels)}
    rows = read_rows(parse(PoolSettings, source, "oracles.human.gold"))
    bare = [row.place for row in rows if math.isnan(row.label)]
    if bare:
        raise MissingLabelError(
            f"{bare[0]}: no label, like {len(bare)} of {len(rows)} gold pairs: say which response is better, or take "
            "the row out"
        )
    identical, duplicates, contradicting = Tally(), Tally(), Tally()
    rows = merge_duplicates(drop_identical(rows, identical), duplicates, contradicting)
    if contradicting.count:
        raise DataError(
            f"{contradicting.examples[0]}: this gold pair is in {path} with different labels; leave one, or take it out"
        )
    decided = [row for row in rows if row.label in (0.0, 1.0)]
    undecided = len(rows) - len(decided)
    if not decided:
        raise DataError(f"{path}: no gold pair: expected pairs of which one response is better (label 0 or 1)")
    for count, why in ((identical.count, "have two identical responses"), (undecided, "have no better response")):
        if count:
            log.warning("%s: %d rows %s and are no gold pairs", path, count, why)
    return sorted(map(_pair, decided), key=lambda pair: pair.name)


def _pair(row: Row) -> GoldPair:
    first, second = sorted((row.a, row.b))
    label = row.label if first == row.a else 1.0 - row.label
    name = digest("gold", as_json(row.prompt), first, second)
    return GoldPair(name, pair_key(row), row.prompt, first, second, label, row.place)


def outside(gold: list[GoldPair], pool: Container[str]) -> list[GoldPair]:
    """The gold pairs that the pool does not have; the others are counted in a warning.

    A pair of the pool is asked for its label. As a gold pair it would be shown twice, and a held-out one would be
    labelled where it must not be.

    Args:
        pool: Keys of the pool's pairs, held-out ones among them.
    """
    left = [pair for pair in gold if pair.key not in pool]
    if len(left) < len(gold):
        first = next(pair for pair in gold if pair.key in pool)
        log.warning(
            "%d of %d gold pairs are pairs of the pool too and are not used as gold, the first is %s",
            len(gold) - len(left),
            len(gold),
            first.place,
        )
    return left
