"""Records of published benchmarks that hold more than one pair.

RewardBench (arXiv:2403.13787) is a table of pairs. In two others one record is one *item*, scored as a whole::

    RewardBench 2  id, prompt, subset, chosen: [1 text], rejected: [3 texts]; in Ties more of both, id `ref:N`, `tied:N`
    RM-Bench       id, prompt, domain, chosen: [3 texts], rejected: [3 texts]; concise, detailed, detailed with markup

An item becomes the pairs that its score needs: chosen against each rejected response, under Ties every pair of
responses, in RM-Bench every style against every style. How scores are made of them is in `bgpm.evaluation`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from bgpm.data.files import Record
from bgpm.data.readers import (
    Reading,
    encodable,
    is_corpus,
    name_of,
    prompt_of,
    read_rows,
    rows_of_record,
    source_records,
    without_repeated_prompts,
)
from bgpm.data.schema import BenchmarkSettings, Item, Row
from bgpm.errors import DataError

STYLES = 3  # concise, detailed, detailed with markup


def read_benchmark(settings: BenchmarkSettings, reading: Reading | None = None) -> tuple[str, list[Row]]:
    """The rule by which a benchmark is scored, and its pairs in the order of the file.

    Args:
        reading: Told what was noticed.

    Raises:
        DataError: Naming file and line of the first record that cannot be used, or that is of another kind.
    """
    if is_corpus(settings):
        return "pairs", list(read_rows(settings))
    reading = Reading(settings) if reading is None else reading
    rows: list[Row] = []
    rule = ""
    for record in source_records(settings, reading):
        try:
            kind = _kind(record) if settings.kind == "auto" else settings.kind
            if rule in ("", kind):
                rows += rows_of_record(record, reading) if kind == "pairs" else map(encodable, _READERS[kind](record))
        except DataError as error:
            reading.skip(error)
            continue
        if rule not in ("", kind):
            raise DataError(
                f"{record[0]}: a record of kind {kind} after records of kind {rule}: give each its own file"
            )
        rule = kind
    reading.check_share(len(rows))
    return rule or "pairs", without_repeated_prompts(rows, reading) if rule == "pairs" else rows


def _kind(record: Record) -> str:
    """What a record must be, by its columns."""
    place, columns = record
    if not all(_are_texts(columns.get(name)) for name in ("chosen", "rejected")):
        return "pairs"
    if columns.get("domain") is not None:
        return "rm_bench"
    if columns.get("subset") is not None:
        return "rewardbench2"
    raise DataError(
        f"{place}: chosen and rejected are lists of texts: expected a column subset (RewardBench 2) or domain "
        "(RM-Bench), or set benchmark.kind"
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _texts(record: Record, column: str) -> list[str]:
    place, columns = record
    if not _are_texts(columns.get(column)):
        raise DataError(f"{place}: {column}: expected a list of texts, got {str(columns.get(column))[:80]!r}")
    return columns[column]


def _best_of(record: Record) -> Iterator[Row]:
    """RewardBench 2: the chosen response against each other one; under Ties every pair, 0.5 where neither is better."""
    place, columns = record
    chosen, rejected = _texts(record, "chosen"), _texts(record, "rejected")
    subset, id = name_of(columns.get("subset")), name_of(columns.get("id"))
    if columns.get("num_correct") not in (None, len(chosen)):
        raise DataError(f"{place}: num_correct is {columns['num_correct']}, but chosen has {len(chosen)} texts")
    if subset.lower() != "ties":
        if len(chosen) != 1:
            raise DataError(f"{place}: expected one chosen response outside the Ties subset, got {len(chosen)}")
        pairs = [(chosen[0], other, 1.0) for other in rejected]
    else:
        if not re.fullmatch(r"(ref|tied):.+", id):
            raise DataError(f"{place}: id {id!r}: expected `ref:N` or `tied:N` under Ties, which go together by N")
        responses = [*dict.fromkeys((text, 1.0) for text in chosen), *dict.fromkeys((text, 0.0) for text in rejected)]
        pairs = [(a, b, 0.5 + 0.5 * (x - y)) for (a, x), (b, y) in itertools.combinations(responses, 2)]
    item = Item("rewardbench2", id or place)
    prompt = prompt_of(columns.get("prompt"), place)
    for number, (a, b, label) in enumerate(pairs):
        yield Row(prompt, a, b, label, subset=subset, id=f"{item.name}#{number}", place=place, item=item)


def _styles(record: Record) -> Iterator[Row]:
    """RM-Bench: every style of the chosen response against every style of the rejected one."""
    place, columns = record
    chosen, rejected = _texts(record, "chosen"), _texts(record, "rejected")
    if len(chosen) != STYLES or len(rejected) != STYLES:
        raise DataError(
            f"{place}: expected {STYLES} chosen and {STYLES} rejected responses, one a style, got {len(chosen)} and "
            f"{len(rejected)}"
        )
    name, domain = name_of(columns.get("id")) or place, name_of(columns.get("domain"))
    if not domain:
        raise DataError(f"{place}: RM-Bench needs a column domain, here it is missing or empty")
    prompt = prompt_of(columns.get("prompt"), place)
    for i, j in itertools.product(range(STYLES), repeat=2):
        item = Item("rm_bench", name, f"{i}-{j}")
        yield Row(prompt, chosen[i], rejected[j], 1.0, subset=domain, id=f"{name}#{i}-{j}", place=place, item=item)


_READERS = {"rewardbench2": _best_of, "rm_bench": _styles}
