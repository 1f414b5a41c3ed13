"""Stage of the study: one pool, from files to tables; with a second argument ``whole``, without held-out prompts."""

from __future__ import annotations

import json

from bgpm.data.prepare import prepare
from bgpm.data.schema import BenchmarkSettings, PoolSettings
from bgpm.stage import STUDY, read_params, run, whole_folder, write_json
from bgpm.study import LABELLED, PARAMS, POOL_SEED, read_plan
from bgpm.study.pools import write_tables
from bgpm.study.records import study_records, whole_records
from bgpm.study.sources import SOURCES


def main(name: str, which: str = "split") -> None:
    plan = read_plan(read_params(PARAMS))
    if which == "whole":
        rows, heldout, benchmark = whole_records(plan.labelled.sources[name], SOURCES), 0.0, None
    else:
        rows, heldout = study_records(plan.pool_plans[name], SOURCES, POOL_SEED), plan.pool_plans[name].heldout
        benchmark = BenchmarkSettings(path=str(SOURCES / plan.benchmark))
    with whole_folder((LABELLED if which == "whole" else STUDY) / "tables" / name) as folder:
        path = folder / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        prepared = prepare(PoolSettings(path=str(path), heldout=heldout, seed=POOL_SEED), benchmark)
        path.unlink()
        write_tables(folder, prepared.pool, {s: t for s, t in prepared.truth.items() if s != "benchmark"})
        write_json(folder / "summary.json", prepared.summary)


if __name__ == "__main__":
    run(main)
