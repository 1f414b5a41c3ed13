"""Stage of the study: one pool, from files to tables; with a second argument ``whole``, without held-out prompts."""

from __future__ import annotations

import json

from bgpm.data.prepare import prepare
from bgpm.data.schema import BenchmarkSettings, PoolSettings
from bgpm.data.tables import write_table
from bgpm.stage import STUDY, read_params, run, whole_folder, write_json
from bgpm.study import LABELLED, PARAMS, POOL_SEED, read_plan
from bgpm.study.pools import write_tables
from bgpm.study.records import record_columns, study_records, whole_records
from bgpm.study.sources import SOURCES


def main(name: str, which: str = "split") -> None:
    plan = read_plan(read_params(PARAMS))
    if which == "whole":
        sources, heldout, benchmark = plan.labelled.sources[name], 0.0, None
        rows = whole_records(sources, SOURCES)
    else:
        sources, heldout = plan.pool_plans[name].sources, plan.pool_plans[name].heldout
        rows = study_records(plan.pool_plans[name], SOURCES, POOL_SEED)
        benchmark = BenchmarkSettings(path=str(SOURCES / plan.benchmark))
    home = LABELLED if which == "whole" else STUDY
    with whole_folder(home / "tables" / name) as folder:
        path = folder / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        settings = PoolSettings(
            path=str(path), heldout=heldout, seed=POOL_SEED, response_columns=record_columns(sources)
        )
        prepared = prepare(settings, benchmark)
        path.unlink()
        write_tables(folder, prepared.pool, {s: t for s, t in prepared.truth.items() if s != "benchmark"})
        # Columns are counted nowhere here: another column is to embed nothing anew.
        write_json(folder / "summary.json", {k: v for k, v in prepared.summary.items() if k != "response columns"})
    write_table(home / "columns" / f"{name}.parquet", prepared.columns["pool"])


if __name__ == "__main__":
    run(main)
