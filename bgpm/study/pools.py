"""A pool of the study: files put together, split by prompt over their union, their texts as features."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bgpm.backbones import FeatureSettings
from bgpm.backbones.reduction import Reduction
from bgpm.data.dedup import prompt_fingerprint
from bgpm.data.readers import read_rows
from bgpm.data.schema import PoolSettings, Row
from bgpm.data.splits import split_prompts
from bgpm.data.tables import read_table, rows_of, write_table
from bgpm.errors import DataError
from bgpm.loop.pool import Pool
from bgpm.study import PoolPlan

Record = dict[str, Any]
Tables = dict[str, dict[str, np.ndarray]]
Text = tuple[list[dict[str, str]], str | None]  # a conversation, and an answer or nothing


def records(plan: PoolPlan, folder: Path, seed: int) -> list[Record]:
    """The pool's pairs as one file's records, each with the split it belongs to and its source as section.

    Raises:
        DataError: If a file is missing or cannot be read.
    """
    by_source = {}
    for source in plan.sources:
        path = folder / source.file
        if not path.exists():
            raise DataError(f"{path}: not found; `make study POOLS=FOLDER` takes the files from FOLDER")
        settings = PoolSettings(path=str(path), heldout=plan.heldout, seed=seed)
        by_source[source.file] = [row for row in read_rows(settings) if row.label in (0.0, 1.0)]
    union = [replace(row, split="") for rows in by_source.values() for row in rows]
    split = split_prompts(union, plan.heldout, seed)
    out: list[Record] = []
    for source in plan.sources:
        rows = by_source[source.file]
        side = [split[prompt_fingerprint(row.prompt)] for row in rows]
        rng = np.random.default_rng([seed, len(rows)])
        bought = [row for row, where in zip(rows, side, strict=True) if where == "pool"]
        if source.pairs is not None:
            bought = _sample(bought, source.pairs, rng)
        if plan.redundancy is not None:
            bought = [copy for row in bought for copy in _copies(row, plan.redundancy.copies)]
        heldout = [row for row, where in zip(rows, side, strict=True) if where == "heldout"]
        name = source.file.split(".")[0]
        out += [_record(row, "pool", name) for row in bought] + [_record(row, "heldout", name) for row in heldout]
    return out


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
            yield replace(row, a=a, b=b, id="")


def _record(row: Row, split: str, source: str) -> Record:
    return {
        "prompt": [{"role": role, "content": content} for role, content in row.prompt],
        "response_a": row.a,
        "response_b": row.b,
        "label": row.label,
        "split": split,
        "section": source,
    }


def texts(folder: Path) -> tuple[list[str], list[Text]]:
    """Names of a set's texts, and the texts: answers in the context of their prompts, then the prompts alone."""
    prompts = read_table(folder / "prompts.parquet", ["prompt_id", "messages"])
    responses = read_table(folder / "responses.parquet", ["response_id", "prompt", "text"])
    conversations = [json.loads(text) for text in prompts["messages"]]
    answers = [(conversations[row], text) for row, text in zip(responses["prompt"], responses["text"], strict=True)]
    return [*responses["response_id"], *prompts["prompt_id"]], [*answers, *((c, None) for c in conversations)]


def states_of(embeddings: Path, folder: Path) -> dict[str, np.ndarray]:
    """States of a set's responses and prompts, [n, layers, width] each, out of the states of all texts."""
    states = np.load(embeddings / "states.npy", mmap_mode="r")
    known = read_table(embeddings / "texts.parquet", ["id"])["id"]
    out = {}
    for kind in ("response", "prompt"):
        ids = read_table(folder / f"{kind}s.parquet", [f"{kind}_id"])[f"{kind}_id"]
        out[f"{kind}s"] = states[rows_of(known, ids, str(embeddings / "texts.parquet"))]
    return out


def fit_reduction(settings: FeatureSettings, tables: Tables, states: dict[str, np.ndarray]) -> Reduction:
    """The reduction fitted on the answers to the pool's own prompts."""
    responses, split = tables["responses"], tables["prompts"]["split"]
    rows = np.flatnonzero(split[responses["prompt"]] == "pool")
    return Reduction.fit(settings, states["responses"][rows], list(responses["text"][rows]))


def write_features(folder: Path, reduction: Reduction, tables: Tables, states: dict[str, np.ndarray]) -> None:
    """Features of responses and prompts, as `bgpm.loop.pool` reads them."""
    folder.mkdir(exist_ok=True)
    for name, values in states.items():
        np.save(folder / f"{name}.npy", reduction(values, list(tables[name]["text"])))


def write_tables(folder: Path, tables: Tables, truth: Tables) -> None:
    """Tables of prompts, responses and pairs, and labels by split."""
    for name, columns in tables.items():
        write_table(folder / f"{name}.parquet", columns)
    for split, labels in truth.items():
        write_table(folder / f"truth-{split}.parquet", labels)


def read_truth(folder: Path, pool: Pool) -> dict[str, np.ndarray]:
    """Recorded label and margin of every row of the pool's table of pairs; NaN for held-out ones and where unknown."""
    recorded = read_table(folder / "truth-pool.parquet")
    rows = rows_of(pool.table["pair_id"], recorded["pair_id"], str(folder / "pairs.parquet"))
    out = {name: np.full(len(pool.pairs), np.nan) for name in ("label", "margin")}
    for name, values in out.items():
        values[rows] = recorded[name]
    return out
