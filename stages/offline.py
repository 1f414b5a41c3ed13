"""Stage offline: every label of the pool at once, for a model outside the loop; the same ones for each seed."""

from __future__ import annotations

import numpy as np

from bgpm.data.tables import concatenate, read_table, rows_of, where, write_table
from bgpm.errors import DataError
from bgpm.sections import Sections
from bgpm.stage import OFFLINE, POOL, TRUTH, run


class Offline(Sections):
    seeds: list[int]


def main() -> None:
    table = read_table(POOL / "pairs.parquet", ["pair_id"])
    truth = read_table(TRUTH / "pool.parquet", ["pair_id", "label", "margin"])
    known = where(truth, ~np.isnan(truth["label"]))
    if not len(known["label"]):
        raise DataError("pool.path: no pair of the pool has a label; training offline needs labelled pairs")
    rows = rows_of(table["pair_id"], known["pair_id"], str(POOL / "pairs.parquet"))
    labels = [
        {
            "seed": np.full(len(rows), seed),
            "round": np.zeros(len(rows), np.int64),
            "pair": rows,
            **known,
        }
        for seed in Offline.read().seeds
    ]
    write_table(OFFLINE / "labels.parquet", concatenate(labels))


if __name__ == "__main__":
    run(main)
