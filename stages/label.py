"""Stage label: ask the oracle for a batch's labels and add them to what is known; and for new audits, which train
nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bgpm.annotations.store import jsonl
from bgpm.data.tables import concatenate, read_table, where, write_table
from bgpm.errors import LabelsPendingError
from bgpm.loop import audits
from bgpm.loop.label import KEPT, label
from bgpm.loop.pool import Table
from bgpm.oracles import Oracle, OracleFiles
from bgpm.sections import Sections
from bgpm.stage import (
    ANNOTATIONS,
    ASKED,
    DATA,
    FROZEN,
    PLAN,
    POOL,
    START,
    TRUTH,
    WAITING,
    generator,
    number_of,
    round_dir,
    run,
    write_json,
    write_text,
)
from bgpm.values import read_json

SCORED = ["seed", "probability"]  # what tells how many labels the model expects to be right


class Label(Sections):
    oracle: Oracle


def main(arm: str, k: str = "0") -> None:
    oracle = Label.read().oracle
    here, first = round_dir(arm, k), arm == "start"
    there, number = (START, 0) if first else (round_dir(arm, int(k) + 1), int(k) + 1)
    batch = read_table(here / "batch.parquet", ["seed", *KEPT])
    known = None if first else read_table(here / "labels.parquet")
    before = audits.none() if first else read_table(here / "audits.parquet")
    wanted = _wanted(batch, known, before, None if first else read_table(here / "scores.parquet", SCORED))
    questions = concatenate([batch, audits.new(wanted, before, batch)])
    # Those who label see one list, in which nothing tells a pair of the batch from an audit.
    asked, sheet = batch, here / "batch.parquet"
    (here / ASKED).unlink(missing_ok=True)
    _forget_later(here, first=first)
    if len(questions["pair"]) > len(batch["pair"]):
        asked, sheet = audits.mixed(questions, generator("ask", arm, number)), here / ASKED
        write_table(sheet, asked)
    files = OracleFiles(TRUTH / "pool.parquet", ANNOTATIONS, sheet, POOL, there / FROZEN)
    try:
        labels, annotations = label(oracle, questions, files, number=number)
    except LabelsPendingError as error:
        if error.pairs:
            order = {pair: place for place, pair in enumerate(asked["pair_id"])}
            write_json(here / WAITING, {"pairs": sorted(error.pairs, key=lambda pair: order[pair])})
        raise
    row = np.arange(len(questions["pair"]))
    acquired, audited = (where(labels, rows) for rows in (row < len(batch["pair"]), row >= len(batch["pair"])))
    write_table(
        there / "labels.parquet",
        acquired if known is None else concatenate([{name: known[name] for name in acquired}, acquired]),
    )
    kept = [audits.still(before, wanted), audits.as_audits(audited)]
    write_table(there / "audits.parquet", concatenate(kept))
    write_text(there / FROZEN, jsonl(annotations))
    (here / WAITING).unlink(missing_ok=True)
    (here / ASKED).unlink(missing_ok=True)


def _forget_later(here: Path, *, first: bool) -> None:
    """Take away the notes of batches behind this one: an earlier run stopped at them, and they will be chosen anew."""
    for note in DATA.glob(f"*/round-*/{WAITING}") if first else here.parent.glob(f"round-*/{WAITING}"):
        if first or number_of(note.parent) > number_of(here):
            note.unlink()


def _wanted(batch: Table, known: Table | None, before: Table, scores: Table | None) -> Table:
    """Every pair that is audited once this batch is acquired."""
    columns = ("seed", "pair")
    acquired = concatenate([{name: part[name] for name in columns} for part in (known, batch) if part is not None])
    pool = read_table(POOL / "pairs.parquet", ["pair_id", "key", "split"])
    audited, seeds = read_json(PLAN), np.unique(batch["seed"]).tolist()
    begun = audits.begun(scores, before, audited["begin"], int((pool["split"] == "pool").sum()), seeds)
    return audits.due(pool, acquired, audited["audits"], lambda seed: generator("audit", seed), begun)


if __name__ == "__main__":
    run(main)
