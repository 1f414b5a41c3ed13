"""Stage of the study: one pool, from files to features."""

from __future__ import annotations

import json

import numpy as np

from bgpm.backbones.embedding import load_backbone
from bgpm.data.prepare import prepare
from bgpm.data.schema import BenchmarkSettings, PoolSettings
from bgpm.data.tables import read_table
from bgpm.stage import STUDY, read_params, run, whole_folder, write_json
from bgpm.study import PARAMS, POOL_SEED, read_plan
from bgpm.study.pools import fit_reduction, records, states, write_features, write_tables
from bgpm.study.sources import SOURCES


def main(name: str) -> None:
    plan = read_plan(read_params(PARAMS))
    shape, benchmark = plan.pool_plans[name], STUDY / "benchmark"
    with whole_folder(STUDY / name / "pool") as folder:
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
        embedded = states(load_backbone(plan.backbone), prepared.pool, name)
        reduction = fit_reduction(plan.features, prepared.pool, embedded)
        write_features(folder / "features", reduction, prepared.pool, embedded)
        texts = {kind: read_table(benchmark / f"{kind}.parquet", ["text"]) for kind in ("responses", "prompts")}
        measured = {kind: np.load(benchmark / f"states-{kind}.npy") for kind in texts}
        write_features(folder / "benchmark", reduction, texts, measured)


if __name__ == "__main__":
    run(main)
