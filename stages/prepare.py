"""Stage prepare: pool and benchmark become tables, split by prompt, with the labels apart."""

from __future__ import annotations

import logging

from pydantic import Field

from bgpm.annotations.store import check_pairs, read_folder
from bgpm.data.prepare import prepare
from bgpm.data.schema import BenchmarkSettings, PoolSettings
from bgpm.data.tables import write_table
from bgpm.oracles.human import Human
from bgpm.sections import Sections
from bgpm.stage import (
    BENCHMARK,
    COLUMNS,
    HELDOUT_ANNOTATIONS,
    POOL,
    TRUTH,
    run,
    whole_folder,
    write_json,
)

log = logging.getLogger("bgpm")


class Prepare(Sections):
    pool: PoolSettings
    benchmark: BenchmarkSettings
    oracle: str
    human: Human = Field(alias="oracles.human")


def main() -> None:
    settings = Prepare.read()
    labels, few = settings.human.answered(HELDOUT_ANNOTATIONS)
    prepared = prepare(settings.pool, settings.benchmark, labels, recorded=settings.oracle == "recorded")
    check_pairs(read_folder(HELDOUT_ANNOTATIONS, "human"), set(prepared.pool["pairs"]["pair_id"]), "the pool")
    if labels or few:
        prepared.summary["held-out answers"] = {"pairs": len(labels) + len(few), "too few people": few}
    if few:
        log.warning(
            "%s: %d of %d answered pairs wait for %d people each and do not count yet, the first is %s",
            HELDOUT_ANNOTATIONS,
            len(few),
            len(labels) + len(few),
            settings.human.annotators_per_pair,
            few[0],
        )
    for path, tables in ((POOL, prepared.pool), (BENCHMARK, prepared.benchmark)):
        with whole_folder(path) as folder:
            for name, table in tables.items():
                write_table(folder / f"{name}.parquet", table)
    with whole_folder(COLUMNS) as folder:
        for name, table in prepared.columns.items():
            write_table(folder / f"{name}.parquet", table)
    none = {name: column[:0] for name, column in prepared.truth["pool"].items()}
    for split, table in ({"heldout": none} | prepared.truth).items():  # pool.heldout: 0 holds none out
        write_table(TRUTH / f"{split}.parquet", table)
    # Counts tell of labels, so they lie where scoring and selecting do not look.
    write_json(TRUTH / "summary.json", {"pool": prepared.summary, "benchmark": prepared.benchmark_summary})


if __name__ == "__main__":
    run(main)
