"""Stage of the study: one pool, from files to tables."""

from __future__ import annotations

import json

from bgpm.data.prepare import prepare
from bgpm.data.schema import BenchmarkSettings, PoolSettings
from bgpm.stage import STUDY, read_params, run, whole_folder, write_json
from bgpm.study import PARAMS, POOL_SEED, read_plan
from bgpm.study.pools import records, write_tables
from bgpm.study.sources import SOURCES


def main(name: str) -> None:
    plan = read_plan(read_params(PARAMS))
    shape = plan.pool_plans[name]
    with whole_folder(STUDY / "tables" / name) as folder:
        path = folder / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in records(shape, SOURCES, POOL_SEED))
        prepared = prepare(
            PoolSettings(path=str(path), heldout=shape.heldout, seed=POOL_SEED),
            BenchmarkSettings(path=str(SOURCES / plan.benchmark)),
        )
        path.unlink()
        write_tables(folder, prepared.pool, {s: t for s, t in prepared.truth.items() if s != "benchmark"})
        write_json(folder / "summary.json", prepared.summary)


if __name__ == "__main__":
    run(main)
