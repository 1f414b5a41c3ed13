"""Which inferred pairs are audited, and the questions of a round: its batch and its new audits, mixed.

The audits of a look are the pairs of lowest priority among those that are not acquired (`bgpm.evaluation.audit`), the
batch of the round taken out first. So an audit stays one until its pair is acquired, and each round asks for new ones
only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from bgpm.data.tables import concatenate, where
from bgpm.evaluation.audit import AUDIT, expected_right, priorities, sample
from bgpm.keys import uniform_by_key
from bgpm.loop.pool import Table

COLUMNS = ("seed", "round", "pair", "pair_id", "label", "annotators", "cost", "source")


def begun(scores: Table | None, before: Table, begin: float, pool: int, seeds: Iterable[int]) -> list[int]:
    """The seeds whose inferred pairs are audited beside the batch that is asked for now.

    They are those that were audited before, and those whose model expects enough labels of the pool to be right. It
    does not know what audits said, so that the moment is chosen without them.

    Args:
        scores: Of the pairs that were on offer for the batch: seed, probability; None before the first model.
        before: Audits so far.
        begin: Share of right labels to be expected; 0 for all seeds.
        pool: Pairs that may be acquired.
    """
    if begin == 0:
        return list(seeds)
    known = set(before["seed"].tolist())

    def enough(seed: int) -> bool:
        return scores is not None and expected_right(scores["probability"][scores["seed"] == seed], pool) >= begin

    return [seed for seed in seeds if seed in known or enough(seed)]


def due(
    pool: Table, acquired: Table, size: int, generator: Callable[[int], np.random.Generator], seeds: Iterable[int]
) -> Table:
    """Every pair that is audited at a look: seed, pair, pair_id.

    Args:
        pool: Columns pair_id, key and split of the pool's pairs.
        acquired: Columns seed and pair: labels so far and the batch that was just chosen.
        size: Audits of each seed; fewer where fewer pairs are left.
        generator: Of a seed, the same in every round: it draws the priorities.
        seeds: Of `begun`.
    """
    rows = np.flatnonzero(pool["split"] == "pool")
    out = [{"seed": np.empty(0, np.int64), "pair": rows[:0], "pair_id": pool["pair_id"][:0]}]
    for seed in seeds:
        inferred = ~np.isin(rows, acquired["pair"][acquired["seed"] == seed])
        pair = rows[sample(priorities(pool["key"][rows], generator(seed)), inferred, size)]
        out.append({"seed": np.full(len(pair), seed), "pair": pair, "pair_id": pool["pair_id"][pair]})
    return concatenate(out)


def still(audits: Table, wanted: Table) -> Table:
    """The audits made before whose pairs are audited at this look too."""
    return where(audits, _among(audits, wanted))


def new(wanted: Table, audits: Table, batch: Table) -> Table:
    """What is to be asked for the first time, with a batch's columns: what it says of other pairs is left blank."""
    rows = where(wanted, ~_among(wanted, audits))
    return {name: rows[name] if name in rows else _blank(column, len(rows["pair"])) for name, column in batch.items()}


def _blank(column: np.ndarray, count: int) -> np.ndarray:
    """So many values of a column's type that say nothing."""
    return np.full(count, np.nan if column.dtype.kind == "f" else None if column.dtype == object else 0, column.dtype)


def mixed(questions: Table, generator: np.random.Generator) -> Table:
    """Questions in an order that does not tell which of them are audits: seed, pair, pair_id."""
    order = np.argsort(uniform_by_key(questions["pair_id"], generator), kind="stable")
    return {name: questions[name][order] for name in ("seed", "pair", "pair_id")}


def as_audits(labels: Table) -> Table:
    """Labels of audits as they are kept: never among those that train."""
    told = labels | {"source": np.full(len(labels["pair"]), AUDIT, dtype=object)}
    return {name: told[name] for name in COLUMNS}


def none() -> Table:
    """No audits."""
    kinds = {"pair_id": object, "source": object, "label": np.float64, "cost": np.float64}
    return {name: np.empty(0, kinds.get(name, np.int64)) for name in COLUMNS}


def _among(table: Table, others: Table) -> np.ndarray:
    """Whether each row's seed and pair are among others', bool [n]."""
    known = set(zip(others["seed"].tolist(), others["pair"].tolist(), strict=True))
    pairs = zip(table["seed"].tolist(), table["pair"].tolist(), strict=True)
    return np.fromiter((pair in known for pair in pairs), bool, len(table["pair"]))
