"""The pairs of one pool of the study: files put together and split by prompt over their union."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bgpm.data.dedup import prompt_fingerprint
from bgpm.data.readers import read_rows
from bgpm.data.response_columns import refuse_labels_in_disguise
from bgpm.data.schema import NumberColumns, PoolSettings, Row
from bgpm.data.splits import split_prompts
from bgpm.errors import DataError
from bgpm.study import PoolFile, PoolPlan

StudyRecord = dict[str, Any]


def study_records(plan: PoolPlan, folder: Path, seed: int) -> list[StudyRecord]:
    """The pool's pairs as one file's records, each with the split it belongs to and its source as section.

    Raises:
        DataError: If a file is missing or cannot be read.
    """
    by_source = {source.file: _decided(source, folder) for source in plan.sources}
    union = [replace(row, split="") for rows in by_source.values() for row in rows]
    split = split_prompts(union, plan.heldout, seed)
    out: list[StudyRecord] = []
    for source in plan.sources:
        rows = by_source[source.file]
        side = [split[prompt_fingerprint(row.prompt)] for row in rows]
        rng = np.random.default_rng([seed, len(rows)])
        acquired = [row for row, where in zip(rows, side, strict=True) if where == "pool"]
        if source.pairs is not None:
            acquired = _sample(acquired, source.pairs, rng)
        if plan.redundancy is not None:
            acquired = [copy for row in acquired for copy in _copies(row, plan.redundancy.copies)]
        heldout = [row for row, where in zip(rows, side, strict=True) if where == "heldout"]
        out += [_record(row, "pool", source) for row in acquired] + [_record(row, "heldout", source) for row in heldout]
    return out


def whole_records(sources: Sequence[PoolFile], folder: Path) -> list[StudyRecord]:
    """The pairs of a pool without held-out ones, each with its source as section; raises as `study_records`."""
    return [_record(row, "pool", source) for source in sources for row in _decided(source, folder)]


def record_columns(sources: Sequence[PoolFile]) -> NumberColumns:
    """``response_columns`` of the records: the names of all sources; a source without one has no number there."""
    return {name: _sides(name) for source in sources for name in source.response_columns}


def _decided(source: PoolFile, folder: Path) -> list[Row]:
    """The source's pairs that have a winner; ConfigError if a column of numbers made their labels."""
    path = folder / source.file
    if not path.exists():
        raise DataError(f"{path}: not found; `make study POOLS=FOLDER` takes the files from FOLDER")
    settings = PoolSettings(path=str(path), heldout=0.0, response_columns=source.response_columns)
    kept = [row for row in read_rows(settings) if source.subset is None or row.subset == source.subset]
    if not kept:
        raise DataError(f"{path}: no pair is of subset {source.subset!r}; mend `subset` in study/params.yaml")
    refuse_labels_in_disguise(kept, list(source.response_columns))  # here: labels of other sources would hide it
    return [row for row in kept if row.label in (0.0, 1.0)]


def _sample(rows: Sequence[Row], n: int, rng: np.random.Generator) -> list[Row]:
    """Pairs of whole prompts, in random order of prompts, until there are n."""
    prompts = list(dict.fromkeys(prompt_fingerprint(row.prompt) for row in rows))
    rank = {prompts[p]: r for r, p in enumerate(rng.permutation(len(prompts)))}
    return sorted(rows, key=lambda row: rank[prompt_fingerprint(row.prompt)])[:n]


def _copies(row: Row, copies: int) -> Iterable[Row]:
    yield row
    winner, loser = (row.a, row.b) if row.label == 1.0 else (row.b, row.a)
    if len(winner.split()) < 2 * len(loser.split()):
        return
    for c in range(1, copies + 1):
        a, b = (text.rsplit(None, c)[0] for text in (row.a, row.b))
        if min(len(a.split()), len(b.split())) > c:  # what is left is most of the text
            yield replace(row, a=a, b=b, id="", numbers_a=(), numbers_b=())  # numbers are of the whole text


def _sides(name: str) -> list[str]:
    return [f"number_a_{name}", f"number_b_{name}"]


def _record(row: Row, split: str, source: PoolFile) -> StudyRecord:
    numbers = {
        key: None if math.isnan(value) else value
        for name, *both in zip(source.response_columns, row.numbers_a, row.numbers_b, strict=False)
        for key, value in zip(_sides(name), both, strict=True)
    }
    return numbers | {
        "prompt": [{"role": role, "content": content} for role, content in row.prompt],
        "response_a": row.a,
        "response_b": row.b,
        "label": row.label,
        "split": split,
        "section": source.file.split(".")[0],
    }
