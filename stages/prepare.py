"""Stage prepare: pool and benchmark become tables, split by prompt, with the labels apart."""

from __future__ import annotations

from bgpm.data.prepare import prepare
from bgpm.data.schema import BenchmarkSettings, PoolSettings
from bgpm.data.tables import write_table
from bgpm.oracles import mean_label
from bgpm.oracles._store import folder_by_pair
from bgpm.registry import parse
from bgpm.stage import BENCHMARK, HELDOUT_ANNOTATIONS, POOL, TRUTH, read_params, run, setting, whole_folder, write_json


def main() -> None:
    params = read_params()
    answers = folder_by_pair(HELDOUT_ANNOTATIONS, "human")
    prepared = prepare(
        parse(PoolSettings, setting(params, "pool"), "pool"),
        parse(BenchmarkSettings, setting(params, "benchmark"), "benchmark"),
        {pair_id: mean_label(tuple(said.values())) for pair_id, said in answers.items()},
        recorded=setting(params, "oracle") == "recorded",
    )
    for path, tables in ((POOL, prepared.pool), (BENCHMARK, prepared.benchmark)):
        with whole_folder(path) as folder:
            for name, table in tables.items():
                write_table(folder / f"{name}.parquet", table)
    for split, labels in prepared.truth.items():
        write_table(TRUTH / f"{split}.parquet", labels)
    # Counts tell of labels, so they lie where scoring and selecting do not look.
    write_json(TRUTH / "summary.json", {"pool": prepared.summary, "benchmark": prepared.benchmark_summary})


if __name__ == "__main__":
    run(main)
